#!/bin/sh
# Builds the bot; `npm run build` finds componentize-js for it. `-d fetch-event` leaves out a server that nobody may call.
set -eu
cd "$(dirname "$0")"
wit=../../target/api-bot-js/wit
rm -rf "$wit"
mkdir -p "$wit/deps" ../../target/guests
cp bot.wit "$wit"
cp -r ../../wit/agent ../../wit/credentials "$wit/deps"
componentize-js bot.js --wit "$wit" -n bot -d fetch-event -o ../../target/guests/api-bot-js.wasm
