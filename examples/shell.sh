# What the tutorial and the how-to pages type with: `. examples/shell.sh`. Needs bash, curl and python3.
# FINFLOW_URL names the API; `finflow up` prints it. Tokens come from `finflow token`, so this works where FinFlow runs.

api=${FINFLOW_URL:-http://127.0.0.1:8400}
token= tenant= minted=0

# What it says of the token's end is of no use here; what it says of a failure is.
_quietly() { finflow "$@" 2> /dev/null || finflow "$@"; }

# as_tenant ID: ask in the name of this tenant from here on. as_operator: in the name of the platform.
as_tenant() { tenant=$1 token=$(_quietly token --tenant "$1") minted=$SECONDS; }
as_operator() { tenant= token=$(_quietly token) minted=$SECONDS; }

# send METHOD PATH [BODY [IDEMPOTENCY-KEY [IF-MATCH]]]: prints the status and keeps the answer's body in $answer.
send() {
  local response status
  # A token lives fifteen minutes, and a reader may take longer.
  if [ -n "$token" ] && [ $((SECONDS - minted)) -gt 600 ]; then
    if [ -n "$tenant" ]; then as_tenant "$tenant"; else as_operator; fi
  fi
  # The header goes through a file, because everybody on the machine can read a command line.
  response=$(curl -si -X "$1" "$api$2" ${token:+-H @<(printf 'Authorization: Bearer %s' "$token")} ${3:+-H 'Content-Type: application/json' -d "$3"} \
    ${4:+-H "Idempotency-Key: $4"} ${5:+-H "If-Match: $5"}) || { echo "nobody answers at $api" >&2; return 1; }
  status=${response#* }
  status=${status%% *}
  answer=${response##*$'\r\n\r\n'}
  case $response in *[Ii]dempotency-[Rr]eplayed*) status="$status replayed" ;; esac
  echo "$status"
}

post() { send POST "$@"; }
# A change of an account names the state it means; `*` is whatever the account is now.
patch() { send PATCH "$1" "$2" "${3:-}" '*'; }
get() { send GET "$1"; }

# show [FIELD ...]: the answer's fields, one a line; the items of a list, one a line.
show() {
  python3 -c '
import json, sys
answer = json.loads(sys.argv[1])
for name in sys.argv[2:] or answer:
    value = answer.get(name)
    if isinstance(value, list):
        print(f"{name}:", *(json.dumps(item) for item in value), sep="\n  ")
    else:
        print(f"{name}: {json.dumps(value)}")
' "$answer" "$@"
}

# field NAME: the bare value of one field of the answer, to keep in a variable.
field() { python3 -c 'import json, sys; print(json.loads(sys.argv[1])[sys.argv[2]])' "$answer" "$1"; }

# open_ledger NAME: a new tenant with one ledger; sets $tenant and $ledger, and asks as the tenant from here on.
open_ledger() {
  as_operator && post /v1/tenants "{\"name\": \"$1\"}" > /dev/null && as_tenant "$(field tenant_id)"
  post /v1/ledgers "{\"name\": \"$1\"}" > /dev/null && ledger=$(field ledger_id)
}

# open_account KIND CURRENCY [MORE]: opens an account and prints its id; MORE is further JSON fields.
open_account() {
  post /v1/accounts "{\"ledger_id\": \"$ledger\", \"kind\": \"$1\", \"currency\": \"$2\"${3:+, $3}}" > /dev/null
  field account_id
}

# transaction DEBIT CREDIT AMOUNT [MORE]: the body that debits one account and credits another, in SGD.
transaction() {
  printf '{"ledger_id": "%s", "entries": [
    {"account_id": "%s", "direction": "debit", "amount": "%s", "currency": "SGD"},
    {"account_id": "%s", "direction": "credit", "amount": "%s", "currency": "SGD"}]%s}' \
    "$ledger" "$1" "$3" "$2" "$3" "${4:+, $4}"
}
