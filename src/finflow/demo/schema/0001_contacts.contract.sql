-- The new release fills the column itself; until everybody runs it, the trigger did.
drop trigger demo_contacts_in_step on demo_contacts;
drop function demo_contacts_in_step();
