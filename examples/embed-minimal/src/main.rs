//! The shortest host: opens a keyring, loads an agent under its manifest, runs it once. `claviger run` does the same with more care
//! for its messages.
//!
//! Usage: `embed-minimal KEYRING MANIFEST INPUT < passphrase`
#![expect(clippy::print_stdout, reason = "it is a command")]

use std::io::Read as _;
use std::path::Path;
use std::sync::Arc;

use anyhow::{Context as _, anyhow};
use claviger::{Answer, Host, Manifest, RunInput, Secret};
use claviger_broker::LocalBroker;
use claviger_broker::custody::{KdfCost, PassphraseSealer};
use claviger_broker::local::Options;

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [keyring, manifest, input] = arguments.as_slice() else {
        return Err(anyhow!(
            "usage: embed-minimal KEYRING MANIFEST INPUT < passphrase"
        ));
    };

    // The broker: the only part that can reach a key.
    let sealer = PassphraseSealer::new(passphrase()?, KdfCost::STANDARD)?;
    let broker = LocalBroker::open(Options::new(keyring, Arc::new(sealer))).await?;

    // The agent: a component under a manifest that pins its digest.
    let path = Path::new(manifest);
    let folder = path.parent().context("the manifest is in no folder")?;
    let (manifest, _warnings) =
        Manifest::parse(&std::fs::read_to_string(path)?).map_err(|problems| anyhow!("{problems:?}"))?;
    let component = std::fs::read(folder.join(&manifest.agent.component))?;

    let host = Host::builder(broker.clone()).build()?;
    let agent = host.load(&manifest, folder, &component).await?;
    let report = agent.run(RunInput::text(input)).await?;

    // The agent chose the text: a real host escapes it before it reaches a terminal.
    match report.answer {
        Answer::Done(text) => println!("{}", text.escape_debug()),
        other => println!("no answer: {other:?}, {:?}", report.end),
    }
    broker.close().await?;
    Ok(())
}

/// All of stdin, up to a line end, moved into locked memory.
fn passphrase() -> anyhow::Result<Secret> {
    let mut text = Vec::with_capacity(1024);
    std::io::stdin().take(1024).read_to_end(&mut text)?;
    if text.last() == Some(&b'\n') {
        text.pop();
    }
    Ok(Secret::take(&mut text)?)
}
