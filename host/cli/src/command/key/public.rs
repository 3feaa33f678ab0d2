//! `claviger key public`: the public half of a key in the forms that verifiers read. There is no command for the private one.

use claviger_broker::keyring::KeyRecord;
use claviger_broker::keyring::published::{PublishError, allowed_signers, jwks};
use claviger_core::key::KeyError;

use super::public_half;
use crate::args::{KeyPublic, PublicFormat};
use crate::context::Context;
use crate::exit::{Exit, Failure};
use crate::keys;

pub(super) fn run(cx: &Context, args: &KeyPublic) -> Result<Exit, Failure> {
    if !args.principal.is_empty() && args.format != PublicFormat::AllowedSigners {
        return Err(Failure::usage(
            "`--principal` belongs to `--format allowed-signers`",
        ));
    }
    let records = keys::list(cx)?;
    let record = keys::named(&records, &args.key)?;
    let name = &args.key.name;
    let versions: Vec<&KeyRecord> = match args.key.version {
        Some(_) => vec![record],
        None => records.iter().filter(|one| one.key.name == *name).collect(),
    };
    let encoding = |error: KeyError| Failure::of(Exit::Failed, &error);
    let published = |error: PublishError| match error {
        PublishError::NoPrincipal | PublishError::NotSsh | PublishError::Name => {
            Failure::of(Exit::Usage, &error)
        }
        _ => Failure::of(Exit::Failed, &error),
    };
    let (format, text) = match args.format {
        PublicFormat::Openssh => (
            "openssh",
            public_half(record)?.to_openssh(name.as_str()).map_err(encoding)?,
        ),
        PublicFormat::Pem => ("pem", public_half(record)?.to_pem().map_err(encoding)?),
        PublicFormat::Jwk => {
            let jwk = public_half(record)?.to_jwk();
            cx.out.value(&jwk, |_| jwk.to_string());
            return Ok(Exit::Done);
        }
        PublicFormat::Jwks => {
            let set = jwks(&versions).map_err(published)?;
            cx.out.value(&set, |_| set.to_string());
            return Ok(Exit::Done);
        }
        PublicFormat::AllowedSigners => (
            "allowed-signers",
            allowed_signers(&versions, &args.principal).map_err(published)?,
        ),
    };
    cx.out
        .value(&serde_json::json!({ "format": format, "public": text }), |_| {
            text.clone()
        });
    Ok(Exit::Done)
}
