// A bank's first day in TypeScript. Needs a FinFlow that runs (`finflow up`); what it prints is beside it:
// first-bank.txt. FINFLOW_URL names the API, FINFLOW_TOKEN holds a tenant's token: `finflow token --tenant ID`.

import { FinFlow, Refused, type Schemas } from "./client.js";

const api = new FinFlow(process.env["FINFLOW_URL"] ?? "http://127.0.0.1:8400", process.env["FINFLOW_TOKEN"] ?? "");

const ledger = await api.create<Schemas["LedgerView"]>("/v1/ledgers", {
  name: "Retail",
} satisfies Schemas["NewLedger"]);

function open(kind: Schemas["NewAccount"]["kind"], overdraft_limit: string | null): Promise<Schemas["AccountView"]> {
  const account: Schemas["NewAccount"] = { ledger_id: ledger.ledger_id, currency: "SGD", kind, overdraft_limit };
  return api.post("/v1/accounts", account);
}

function move(debit: string, credit: string, amount: string): Promise<Schemas["TransactionView"]> {
  const transaction: Schemas["NewTransaction"] = {
    ledger_id: ledger.ledger_id,
    entries: [
      { account_id: debit, direction: "debit", amount, currency: "SGD" },
      { account_id: credit, direction: "credit", amount, currency: "SGD" },
    ],
  };
  return api.post("/v1/transactions", transaction);
}

const vault = await open("asset", null);
const alice = await open("liability", "0");
const deposit = await move(vault.account_id, alice.account_id, "100.00");
console.log(`deposit: ${deposit.status}, seq ${deposit.seq}`);

try {
  await move(alice.account_id, vault.account_id, "250.00");
} catch (error) {
  if (!(error instanceof Refused)) throw error;
  console.log(`refused: ${error.problem.code} at ${error.problem.param}`);
}

const balance = await api.get<Schemas["BalanceView"]>(`/v1/accounts/${alice.account_id}/balance`);
console.log(`alice has ${balance.balance} ${balance.currency}`);
