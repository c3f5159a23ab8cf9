-- A release that searches customers by name wants it in small letters. Both releases can use the table from
-- here on: the old one writes the name alone, and the trigger keeps the new column in step.
alter table demo_contacts add column search_name text;

create function demo_contacts_in_step() returns trigger language plpgsql as $$
begin
    new.search_name := lower(new.name);
    return new;
end;
$$;
create trigger demo_contacts_in_step before insert or update on demo_contacts
    for each row execute function demo_contacts_in_step();
