-- finflow: table=demo_contacts key=(contact_no) batch=2000
update demo_contacts set search_name = lower(name)
 where contact_no between $1 and $2 and search_name is null;
