//! `claviger ssh-agent`: serves one grant of a manifest as an SSH agent, until a signal ends it. Everything that is asked goes the way that
//! an agent's requests go.

use std::sync::Arc;

use claviger_broker::ssh_agent::{Socket, SshAgent, SshAgentError};
use claviger_core::name::nearest;
use claviger_core::{Broker, ComponentDigest, GrantAlias};

use crate::args::SshAgent as Args;
use crate::command::run::serve_control;
use crate::context::Context;
use crate::exit::{Exit, Failure};
use crate::manifest::ManifestFile;
use crate::unlock::with_broker;

pub(crate) fn run(cx: &Context, args: &Args) -> Result<Exit, Failure> {
    let file = ManifestFile::read_to_obey(&args.manifest.path)?;
    let (manifest, _) = file.parse(&cx.out)?;
    if !manifest.grants.contains_key(&args.grant) {
        let failure = Failure::failed(format!("the manifest has no grant `{}`", args.grant));
        let near = nearest(
            args.grant.as_str(),
            manifest.grants.keys().map(GrantAlias::as_str),
        );
        return Err(match near {
            Some(near) => failure.help(format!("did you mean `{near}`?")),
            None => failure,
        });
    }
    // The grant is the agent's, and the agent is these bytes.
    let component = ComponentDigest::of(&file.component(&manifest)?);
    with_broker(cx, async |broker| {
        let admission = broker.admit(&manifest, component).await?;
        serve_control(cx, broker);
        let who = broker
            .start(admission.id)
            .map_err(|refusal| Failure::of(Exit::Failed, &SshAgentError::Refused(refusal)))?;
        let agent = SshAgent::new(Arc::clone(broker) as Arc<dyn Broker>, who, args.grant.clone()).await?;
        let socket = Socket::bind(&args.socket).await?;
        let path = socket.path().display().to_string();
        let served = serde_json::json!({ "grant": args.grant, "agent": manifest.agent.name, "socket": path });
        cx.out.value(&served, |_| path.clone());
        agent.serve(&socket).await;
        Ok(Exit::Done)
    })
}

impl From<SshAgentError> for Failure {
    fn from(error: SshAgentError) -> Self {
        let exit = match &error {
            SshAgentError::Refused(_) => Exit::Denied,
            _ => Exit::Failed,
        };
        let profile = matches!(error, SshAgentError::Profile(_));
        let failure = Self::of(exit, &error);
        if profile {
            failure.help("`claviger key create NAME --profile ssh-auth --user …` makes one")
        } else {
            failure
        }
    }
}
