-- Nobody is without, and nobody has another's.
select contact_no from demo_contacts where search_name is distinct from lower(name) limit 1;
