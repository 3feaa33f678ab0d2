//! `claviger key attest`: a TPM's own word that a key lives in it, as files that other programs verify. Verifies nothing itself.

use std::fs::OpenOptions;
use std::io::Write as _;
use std::path::Path;
use std::sync::Arc;

use claviger_broker::LocalBroker;
use claviger_broker::keyring::KeyRecord;
use claviger_core::KeyName;
use claviger_core::key::KeySpec;
use claviger_core::profile::Profile;
use rand_core::{OsRng, RngCore as _};

use crate::args::{Attest, Nonce};
use crate::context::Context;
use crate::exit::{Exit, Failure};
use crate::output::{columns, shown};
use crate::progress;
use crate::unlock::with_broker;

pub(crate) fn run(cx: &Context, args: &Attest) -> Result<Exit, Failure> {
    let nonce = match &args.nonce {
        Some(Nonce(bytes)) => bytes.clone(),
        None => random()?,
    };
    std::fs::create_dir_all(&args.out).map_err(|error| {
        Failure::failed(format!(
            "the folder `{}` cannot be made",
            shown(&args.out.display().to_string())
        ))
        .because(Some(&error))
        .help("name another folder with `--out DIR`")
    })?;
    let (certified, by, public) = with_broker(cx, async |broker| {
        let by = match &args.by {
            Some(by) => by.clone(),
            None => the_only_one(broker)?,
        };
        let proving = broker.prove_resident(&args.key, &by, &nonce);
        let certified = progress::during(&cx.out, "asking the TPM", proving).await?;
        // A key for MACs has none.
        let public = proved(broker, &args.key).and_then(|record| record.public()?.to_pem().ok());
        Ok((certified, by, public))
    })?;
    let attestation_key = certified
        .attestation_key
        .to_pem()
        .map_err(|error| Failure::of(Exit::Failed, &error))?;
    let name = args.key.name.as_str();
    let files = [
        (format!("{name}.attest"), certified.attest.as_slice()),
        (format!("{name}.attest.sig"), certified.signature.as_slice()),
        (format!("{name}.tpmt"), certified.public_area.as_slice()),
        (format!("{by}.ak.pem"), attestation_key.as_bytes()),
    ];
    for (file, bytes) in &files {
        write(&args.out.join(file), bytes)?;
    }
    let [attest, signature, area, ak] = files.map(|(file, _)| file);
    let key = public
        .map(|pem| {
            let file = format!("{name}.pem");
            write(&args.out.join(&file), pem.as_bytes()).map(|()| file)
        })
        .transpose()?;
    let json = serde_json::json!({
        "nonce": hex::encode(&nonce),
        "by": by,
        "folder": args.out,
        "attest": attest,
        "signature": signature,
        "public_area": area,
        "public_key": key,
        "attestation_key": ak,
    });
    cx.out.value(&json, |_| {
        let rows = [
            ("nonce", hex::encode(&nonce)),
            ("what the TPM says", attest.clone()),
            ("its signature", signature.clone()),
            ("the key's public area", area.clone()),
            (
                "the key",
                key.clone().unwrap_or_else(|| "none: it is symmetric".to_owned()),
            ),
            ("the TPM's key", ak.clone()),
            (
                "to verify",
                format!("openssl dgst -sha256 -verify {ak} -signature {signature} {attest}"),
            ),
        ];
        shown(&columns(&rows.map(|(name, value)| vec![name.to_owned(), value])))
    });
    Ok(Exit::Done)
}

fn the_only_one(broker: &LocalBroker) -> Result<KeyName, Failure> {
    let keys = broker.keyring().keys();
    let mut active = keys
        .iter()
        .filter(|record| matches!(record.profile, Profile::Attest {}) && record.is_in_use());
    match (active.next(), active.next()) {
        (Some(only), None) => Ok(only.key.name.clone()),
        (None, _) => Err(
            Failure::failed("the keyring has no active key with profile `attest`")
                .help("`claviger key create evidence --profile attest` makes one, in the TPM"),
        ),
        (Some(one), Some(other)) => Err(Failure::usage(format!(
            "several keys have the profile `attest`: name one with `--by {}` or `--by {}`",
            one.key.name, other.key.name
        ))),
    }
}

fn proved(broker: &LocalBroker, spec: &KeySpec) -> Option<Arc<KeyRecord>> {
    let keys = broker.keyring().versions(&spec.name);
    keys.into_iter()
        .filter(|record| spec.version.is_none_or(|version| record.key.version == version))
        .max_by_key(|record| record.key.version)
}

/// Never over something that is there: it may be another proof.
fn write(path: &Path, bytes: &[u8]) -> Result<(), Failure> {
    let written = OpenOptions::new()
        .write(true)
        .create_new(true)
        .open(path)
        .and_then(|mut file| file.write_all(bytes));
    written.map_err(|error| {
        Failure::failed(format!(
            "`{}` cannot be written",
            shown(&path.display().to_string())
        ))
        .because(Some(&error))
        .help("name another folder with `--out DIR`")
    })
}

fn random() -> Result<Vec<u8>, Failure> {
    let mut bytes = vec![0; 32];
    OsRng
        .try_fill_bytes(&mut bytes)
        .map_err(|error| Failure::failed("the system gives no random numbers").because(Some(&error)))?;
    Ok(bytes)
}
