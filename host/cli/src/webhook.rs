//! A web service that is asked for approvals: what is said to it, and what counts as its answer. The broker sends it, with the service's
//! secret attached and on record; nothing here opens a socket.

use std::path::Path;
use std::sync::{Arc, OnceLock, Weak};
use std::time::Duration;

use bytes::Bytes;
use claviger_broker::LocalBroker;
use claviger_broker::local::{HookError, Webhook};
use claviger_core::approval::{AnsweredBy, NoVerdict, Question, Subject, Verdict};
use claviger_core::http::{CidrBlock, InjectionKind, Target};
use claviger_core::manifest::{Capability, Manifest};
use claviger_core::name::escape;
use claviger_core::{Approver, BoxFuture, RequestDigest, SecretName};
use serde::{Deserialize, Serialize};

use crate::exit::Failure;
use crate::file::read_bounded;
use crate::output::Output;
use crate::question::shown_whole;

/// Of what would be done, so many characters go to the service.
const MAX_SUMMARY: usize = 4 * 1024;
/// A service that has no answer yet, or cannot be reached, is asked again after this.
const AGAIN: Duration = Duration::from_secs(5);
/// A file with authorities has at most this many bytes.
const MAX_AUTHORITIES: u64 = 64 * 1024;

/// Puts questions to a web service.
#[derive(Debug)]
pub(crate) struct Hook {
    hook: Webhook,
    // Known once the keyring is open.
    broker: OnceLock<Weak<LocalBroker>>,
    out: Output,
}

/// What is said.
#[derive(Debug, Serialize)]
struct Said<'a> {
    id: String,
    request: RequestDigest,
    agent: &'a str,
    grant: &'a str,
    component: String,
    manifest: String,
    mode: &'static str,
    kind: &'static str,
    asked: String,
    expires: String,
    size: u64,
    digest: String,
    summary: String,
}

/// What comes back. All of it must be there but the reason: an answer to another question is none.
#[derive(Debug, Deserialize)]
struct Answered {
    id: String,
    request: RequestDigest,
    approve: bool,
    #[serde(default)]
    reason: String,
}

impl Hook {
    /// At this URL. The terms are read as those of a grant are. A secret of kind `webhook-hmac` signs what is asked, and answers must be
    /// signed with it, too; one of kind `bearer` is sent.
    pub(crate) fn new(
        url: &Target,
        (secret, kind): (&SecretName, InjectionKind),
        authorities: Option<&Path>,
        networks: &[CidrBlock],
        out: Output,
    ) -> Result<Self, Failure> {
        let inject = match kind {
            InjectionKind::Bearer => format!("bearer = \"{secret}\""),
            InjectionKind::WebhookHmac => format!("webhook-hmac = \"{secret}\", scheme = \"standard\""),
            InjectionKind::Basic
            | InjectionKind::Header
            | InjectionKind::Query
            | InjectionKind::OauthClient
            | InjectionKind::OauthRefresh
            | InjectionKind::OauthSubject
            | InjectionKind::AwsSigv4 => {
                return Err(Failure::usage(format!(
                    "secret `{secret}` is for `{kind}`; expected one for `webhook-hmac` or `bearer`"
                ))
                .help(format!(
                    "`claviger secret add NAME --kind webhook-hmac --origin {}` adds one",
                    url.origin()
                )));
            }
        };
        let mut fields = format!("origin = \"{}\", allow = [\"POST /\"]", url.origin());
        if let Some(path) = authorities {
            let what = format!("the file with authorities `{}`", path.display());
            let pem = String::from_utf8(read_bounded(path, MAX_AUTHORITIES, &what)?)
                .ok()
                .filter(|pem| !pem.contains("'''"))
                .ok_or_else(|| {
                    Failure::failed(format!("{what} holds something else than certificates in PEM"))
                })?;
            fields.push_str(&format!(", authorities = '''\n{pem}'''"));
        }
        if !networks.is_empty() {
            let blocks: Vec<_> = networks.iter().map(|block| format!("\"{block}\"")).collect();
            fields.push_str(&format!(", private-network = [{}]", blocks.join(", ")));
        }
        let text = format!(
            "schema = 1\n[agent]\nname = \"approver\"\ncomponent = \"none\"\n[grants.approver]\nhttp = {{ {fields} }}\n\
             inject = {{ {inject} }}\n"
        );
        let wrong = |problems: Vec<claviger_core::manifest::Problem>| {
            let first = problems.first().map_or_else(String::new, ToString::to_string);
            Failure::usage(format!("the approver's terms are not acceptable: {first}"))
        };
        let (manifest, _) = Manifest::parse(&text).map_err(wrong)?;
        let grant = manifest.grants.into_values().next();
        match grant.map(|grant| grant.capability) {
            Some(Capability::Http(grant)) => Ok(Self {
                hook: Webhook::new(url.clone(), &grant),
                broker: OnceLock::new(),
                out,
            }),
            Some(_) | None => Err(wrong(Vec::new())),
        }
    }

    /// From now on questions can be sent.
    pub(crate) fn attach(&self, broker: &Arc<LocalBroker>) {
        // The first one stays.
        drop(self.broker.set(Arc::downgrade(broker)));
    }

    async fn put(&self, question: &Question) -> Result<Verdict, NoVerdict> {
        let json = said(question).map_err(|_| NoVerdict)?;
        loop {
            let broker = self.broker.get().and_then(Weak::upgrade).ok_or(NoVerdict)?;
            let asked = broker.ask_webhook(&self.hook, question, json.clone()).await;
            drop(broker);
            match asked {
                Ok((200, body)) => return self.verdict(question, &body),
                Ok((202, _)) => {}
                Ok((status, _)) => {
                    self.warn(&format!("it answers with status {status}, expected 200 or 202"));
                    return Err(NoVerdict);
                }
                Err(HookError::Failed(error)) => self.warn(&error.to_string()),
                Err(error) => {
                    self.warn(&error.to_string());
                    return Err(NoVerdict);
                }
            }
            // Whoever waits for the answer drops this when it is too late.
            tokio::time::sleep(AGAIN).await;
        }
    }

    fn verdict(&self, question: &Question, body: &Bytes) -> Result<Verdict, NoVerdict> {
        let by = AnsweredBy::Webhook {
            origin: self.hook.origin().clone(),
        };
        match heard(question, body, by) {
            Some(verdict) => Ok(verdict),
            None => {
                self.warn(
                    "its answer is none to this question; expected JSON with `id`, `request` and `approve`",
                );
                Err(NoVerdict)
            }
        }
    }

    fn warn(&self, text: &str) {
        self.out.warn(&format!(
            "the approver at {} gives no answer: {text}",
            self.hook.origin()
        ));
    }
}

impl Approver for Hook {
    fn ask(&self, question: Arc<Question>) -> BoxFuture<'_, Result<Verdict, NoVerdict>> {
        Box::pin(async move { self.put(&question).await })
    }
}

/// What is said of a question: the agent's content as digest, and as text that was escaped.
fn said(question: &Question) -> serde_json::Result<Vec<u8>> {
    let content = question.subject.content();
    let digest = match &question.subject {
        Subject::Send { digest, .. } => *digest,
        Subject::Sign { .. }
        | Subject::Seal { .. }
        | Subject::Unseal { .. }
        | Subject::Generate { .. }
        | Subject::Verify { .. }
        | Subject::Attest { .. } => content.digest,
    };
    let shown = shown_whole(question);
    let end = shown.floor_char_boundary(MAX_SUMMARY);
    serde_json::to_vec(&Said {
        id: question.id.to_string(),
        request: question.request,
        agent: question.agent.as_str(),
        grant: question.grant.as_str(),
        component: question.component.to_string(),
        manifest: question.manifest.to_string(),
        mode: question.mode.as_str(),
        kind: question.subject.kind(),
        asked: question.asked.to_string(),
        expires: question.expires.to_string(),
        size: content.size,
        digest: digest.to_string(),
        summary: shown.get(..end).unwrap_or_default().to_owned(),
    })
}

/// The verdict in an answer, if it is one to this question.
fn heard(question: &Question, body: &[u8], by: AnsweredBy) -> Option<Verdict> {
    let answered: Answered = serde_json::from_slice(body).ok()?;
    if answered.id != question.id.to_string() || answered.request != question.request {
        return None;
    }
    Some(if answered.approve {
        Verdict::approve(question, by)
    } else {
        Verdict::deny(question, by, &escape(&answered.reason, MAX_SUMMARY))
    })
}

#[cfg(test)]
mod tests {
    use claviger_core::approval::{Answer, ApprovalId, ApprovalMode, Content};
    use claviger_core::profile::SigningRule;
    use claviger_core::{ComponentDigest, InstanceId, ManifestDigest};

    use super::*;

    fn question(content: &[u8]) -> Question {
        let subject = Subject::Sign {
            key: claviger_core::KeyRef {
                name: "release".parse().unwrap(),
                version: claviger_core::KeyVersion(1),
            },
            rule: SigningRule::Labeled {
                label: "notes".parse().unwrap(),
            },
            content: Content::of(content),
        };
        let (agent, grant) = ("bot".parse().unwrap(), "sign".parse().unwrap());
        let (component, manifest) = (ComponentDigest::of(b"c"), ManifestDigest::of(b"m"));
        Question {
            id: ApprovalId::new([1; 8]),
            instance: InstanceId(1),
            request: subject.request(&agent, &component, &manifest, &grant),
            agent,
            component,
            manifest,
            grant,
            mode: ApprovalMode::Each,
            asked: "2026-06-01T12:00:00Z".parse().unwrap(),
            expires: "2026-06-01T12:05:00Z".parse().unwrap(),
            subject,
            last: None,
        }
    }

    fn by() -> AnsweredBy {
        AnsweredBy::Webhook {
            origin: "https://approve.test".parse().unwrap(),
        }
    }

    #[test]
    fn only_an_answer_to_this_question_counts() {
        let (asked, other) = (question(b"x"), question(b"y"));
        let (id, request) = (asked.id.to_string(), asked.request.to_string());
        let answer = |id: &str, request: &str, rest: &str| {
            let json = format!("{{\"id\":\"{id}\",\"request\":\"{request}\"{rest}}}");
            heard(&asked, json.as_bytes(), by()).map(|verdict| verdict.answer)
        };
        assert_eq!(answer(&id, &request, ",\"approve\":true"), Some(Answer::Approve));
        let reason = ",\"approve\":false,\"reason\":\"no\\u001b\"";
        assert!(
            matches!(answer(&id, &request, reason), Some(Answer::Deny { reason }) if !reason.contains('\u{1b}'))
        );
        let other = other.request.to_string();
        for (id, request, rest) in [
            (id.as_str(), other.as_str(), ",\"approve\":true"),
            ("0202020202020202", &request, ",\"approve\":true"),
            (&id, &request, ""),
            (&id, &request, ",\"approve\":\"true\""),
            (&id, &request, ",\"approve\":1"),
            (&id, "", ",\"approve\":true"),
        ] {
            assert_eq!(answer(id, request, rest), None, "{id} {request} {rest}");
        }
        assert!(heard(&asked, b"{\"approve\": true}", by()).is_none());
        assert!(heard(&asked, b"yes", by()).is_none());
    }

    #[test]
    fn what_is_said_is_bounded_and_escaped() {
        let hostile = format!("\u{1b}[2J{}", "\u{202e}ä".repeat(20_000));
        let said = said(&question(hostile.as_bytes())).unwrap();
        assert!(said.len() < 2 * MAX_SUMMARY, "{}", said.len());
        let json: serde_json::Value = serde_json::from_slice(&said).unwrap();
        let summary = json["summary"].as_str().unwrap();
        assert!(summary.contains("\\u{1b}[2J\\u{202e}ä"), "{summary}");
        assert!(!summary.contains('\u{202e}'));
        assert_eq!(json["kind"], "sign");
    }

    #[test]
    fn the_terms_of_a_webhook_are_those_of_a_grant() {
        let url = Target::parse(
            "https://approve.test/hook",
            claviger_core::http::PathEncoding::Refused,
        )
        .unwrap();
        let secret = "hook".parse().unwrap();
        let networks = ["10.0.0.0/8".parse().unwrap()];
        let made = |kind| Hook::new(&url, (&secret, kind), None, &networks, Output::new(false));
        for kind in [InjectionKind::Bearer, InjectionKind::WebhookHmac] {
            let hook = made(kind).unwrap();
            assert_eq!(hook.hook.origin().to_string(), "https://approve.test");
        }
        let refused = made(InjectionKind::Query).unwrap_err();
        assert!(refused.message.contains("is for `query`"), "{}", refused.message);
    }
}
