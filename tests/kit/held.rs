//! A real agent in a real host over the driver's broker, which stands still while the agent waits for a signature: then all that it
//! has is in its linear memory. Not a broker of its own: it asks the local one.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use claviger::{Host, PoolSize, RunInput};
use claviger_broker::LocalBroker;
use claviger_core::admission::AdmissionId;
use claviger_core::audit::InstanceEnd;
use claviger_core::egress::{Answer, BodyStream, RequestHead, SendError};
use claviger_core::{
    Admission, BoxFuture, Broker, ComponentDigest, InstanceId, Manifest, NotAdmitted, Outcome, Refusal,
    Request, Secret,
};

use crate::driver::say;
use crate::guests::{Guest, compiled, guest};
use crate::holder::{IN_HOST_CALL, pause};

/// What the agent signs, one after the other.
pub const SIGNED: [&str; 2] = ["the first of the agent", "the second of the agent"];

/// Has the agent obey the script, sign, and be refused; stands still once in between.
pub(crate) async fn run_agent(broker: &Arc<LocalBroker>, script: &str) -> anyhow::Result<()> {
    let agent = guest(Guest::Agent);
    let text = format!(
        "schema = 1\n[agent]\nname = \"guest\"\ncomponent = \"guest.wasm\"\ndigest = \"{}\"\n\
         [limits]\ndeadline = \"10 min\"\n[grants.notes]\nsign = {{ key = \"notes\" }}\nuses = 2\n",
        ComponentDigest::of(agent)
    );
    let (manifest, _) = Manifest::parse(&text).map_err(|problems| anyhow::anyhow!("{problems:?}"))?;
    let still = StandsStill {
        broker: Arc::clone(broker),
        performed: AtomicU32::new(0),
    };
    let host = Host::builder(Arc::new(still))
        .pool(PoolSize::new(1))
        .cache(compiled(), Secret::take(&mut [9; 32])?)
        .build()?;
    let agent = host.load(&manifest, Path::new("/nonexistent"), agent).await?;
    let [first, second] = SIGNED;
    let script = format!(
        "{script}sign notes {first}\nsign notes {second}\nsign notes third\nsign-size notes 1000000\nsign foreign x\ninfo notes"
    );
    let report = agent.run(RunInput::text(script)).await?;
    say(&format!("agent {:?}", report.answer));
    Ok(())
}

/// Stands still when the second request was performed and the agent does not know yet.
#[derive(Debug)]
struct StandsStill {
    broker: Arc<LocalBroker>,
    performed: AtomicU32,
}

impl Broker for StandsStill {
    fn admit<'a>(
        &'a self,
        manifest: &'a Manifest,
        component: ComponentDigest,
    ) -> BoxFuture<'a, Result<Admission, NotAdmitted>> {
        self.broker.admit(manifest, component)
    }

    fn withdraw(&self, admission: AdmissionId, reasons: Vec<String>) {
        self.broker.withdraw(admission, reasons);
    }

    fn start(&self, admission: AdmissionId) -> Result<InstanceId, Refusal> {
        self.broker.start(admission)
    }

    fn end(&self, who: InstanceId, how: InstanceEnd) {
        self.broker.end(who, how);
    }

    fn perform(&self, who: InstanceId, request: Request) -> BoxFuture<'_, Result<Outcome, Refusal>> {
        Box::pin(async move {
            let signs = matches!(request, Request::Sign { .. });
            let outcome = self.broker.perform(who, request).await;
            if signs && self.performed.fetch_add(1, Ordering::SeqCst) == 1 {
                pause(IN_HOST_CALL).expect("a test");
            }
            outcome
        })
    }

    fn send(
        &self,
        who: InstanceId,
        head: RequestHead,
        body: Option<BodyStream>,
    ) -> BoxFuture<'_, Result<Answer, SendError>> {
        self.broker.send(who, head, body)
    }
}
