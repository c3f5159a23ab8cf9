"""Telling people what a rollout does: webhook, chat, e-mail, a file, standard error."""
