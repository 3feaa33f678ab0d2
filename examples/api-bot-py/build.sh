#!/bin/sh
# Builds the bot. WASI's own interfaces come from the crate that the host has them from: not the newest, the ones it serves.
set -eu
cd "$(dirname "$0")"
out=../../target/api-bot-py
host=$(cargo metadata --format-version 1 --locked | python3 -c '
import json, os, sys
packages = json.load(sys.stdin)["packages"]
print(*(os.path.dirname(one["manifest_path"]) for one in packages if one["name"] == "wasmtime-wasi-http"))')
rm -rf "$out/wit"
mkdir -p "$out/wit/deps" ../../target/guests
cp bot.wit "$out/wit"
cp -r ../../wit/agent ../../wit/credentials "$host"/wit/deps/*.wit "$out/wit/deps"
componentize-py -d "$out/wit" -w bot componentize bot -o ../../target/guests/api-bot-py.wasm
