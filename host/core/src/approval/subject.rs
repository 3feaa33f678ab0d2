//! What would be done by a use that waits for its approval, and what an approval of it is bound to. Does nothing of it.

use std::fmt::{self, Debug};

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::content::Content;
use crate::audit::Operation;
use crate::digest::{ComponentDigest, ContentDigest, ManifestDigest, RequestDigest};
use crate::key::KeyRef;
use crate::name::{AgentName, GrantAlias, Label, Principal};
use crate::profile::SigningRule;

/// What would be done.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "do", rename_all = "kebab-case")]
pub enum Subject {
    /// Content is signed.
    Sign {
        /// The key and its version.
        key: KeyRef,
        /// How it is framed.
        rule: SigningRule,
        /// What the agent passed.
        content: Content,
    },
    /// A request is sent.
    Send {
        /// The method.
        method: String,
        /// The whole URL, in the one accepted spelling; without what the host attaches.
        url: String,
        /// The header fields that the agent set. Values are escaped; fields of one name stay apart.
        headers: Vec<(String, String)>,
        /// What the host attaches: the kind of credential, or `none`.
        inject: String,
        /// The digest of method, URL, header fields and body as they would be sent.
        digest: ContentDigest,
        /// The body.
        body: Content,
    },
    /// A text is sealed.
    Seal {
        /// The key and its version.
        key: KeyRef,
        /// What the box is for.
        context: Content,
        /// What the agent passed.
        plaintext: Content,
        /// Keeps what is on the log from telling the text.
        salt: Salt,
    },
    /// A box is opened.
    Unseal {
        /// The key and its version, as the box names it; none if it names none that opens any.
        key: Option<KeyRef>,
        /// What the box is said to be for.
        context: Content,
        /// The box. What is in it is known to nobody before it is opened, and nothing of it is here.
        sealed: Content,
    },
    /// A tag is made.
    Generate {
        /// The key and its version.
        key: KeyRef,
        /// What the key's tags are for.
        label: Label,
        /// What the agent passed.
        content: Content,
    },
    /// A tag is compared.
    Verify {
        /// The key and its version, as the tag names it; none if it names none that verifies any.
        key: Option<KeyRef>,
        /// What the key's tags are for.
        label: Label,
        /// What the agent passed.
        content: Content,
        /// The tag.
        tag: ContentDigest,
    },
    /// Evidence of the agent is given.
    Attest {
        /// The key and its version.
        key: KeyRef,
        /// For whom.
        audience: Principal,
        /// The life of the evidence in seconds.
        ttl: u32,
        /// What the verifier is said to have given.
        nonce: Content,
    },
}

impl Debug for Subject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.kind())
    }
}

impl Subject {
    /// In one word, as it is listed and told to web services.
    #[must_use]
    pub const fn kind(&self) -> &'static str {
        match self {
            Self::Sign { .. } => "sign",
            Self::Send { .. } => "send",
            Self::Seal { .. } => "seal",
            Self::Unseal { .. } => "unseal",
            Self::Generate { .. } => "generate",
            Self::Verify { .. } => "verify",
            Self::Attest { .. } => "attest",
        }
    }

    /// Which right of its grant it is, if its grant has rights.
    #[must_use]
    pub const fn operation(&self) -> Option<Operation> {
        match self {
            Self::Seal { .. } => Some(Operation::Seal),
            Self::Unseal { .. } => Some(Operation::Unseal),
            Self::Generate { .. } => Some(Operation::Generate),
            Self::Verify { .. } => Some(Operation::Verify),
            Self::Sign { .. } | Self::Send { .. } | Self::Attest { .. } => None,
        }
    }

    /// The content; of a request, its body; of a text or a box, it; of evidence, the nonce.
    #[must_use]
    pub const fn content(&self) -> &Content {
        match self {
            Self::Sign { content, .. } | Self::Generate { content, .. } | Self::Verify { content, .. } => {
                content
            }
            Self::Send { body, .. } => body,
            Self::Seal { plaintext, .. } => plaintext,
            Self::Unseal { sealed, .. } => sealed,
            Self::Attest { nonce, .. } => nonce,
        }
    }

    /// What an approval of this by this agent under this grant is bound to.
    #[must_use]
    pub fn request(
        &self,
        agent: &AgentName,
        component: &ComponentDigest,
        manifest: &ManifestDigest,
        grant: &GrantAlias,
    ) -> RequestDigest {
        let who = [
            agent.as_str().as_bytes(),
            component.as_bytes(),
            manifest.as_bytes(),
            grant.as_str().as_bytes(),
            self.kind().as_bytes(),
        ];
        // The kind is among these, and each kind has as many parts as every other of it.
        let bound = |what: &[&[u8]]| RequestDigest::of_parts(who.iter().chain(what).copied());
        match self {
            Self::Sign { key, rule, content } => {
                // A rule is names and numbers, which always have a JSON text.
                let rule = serde_json::to_vec(rule).unwrap_or_default();
                bound(&[key.to_string().as_bytes(), &rule, content.digest.as_bytes()])
            }
            Self::Send {
                inject, digest, body, ..
            } => bound(&[inject.as_bytes(), digest.as_bytes(), body.digest.as_bytes()]),
            Self::Seal {
                key,
                context,
                plaintext,
                salt,
            } => bound(&[
                key.to_string().as_bytes(),
                context.digest.as_bytes(),
                plaintext.digest.as_bytes(),
                &salt.0,
            ]),
            Self::Unseal { key, context, sealed } => bound(&[
                named(key.as_ref()).as_bytes(),
                context.digest.as_bytes(),
                sealed.digest.as_bytes(),
            ]),
            Self::Generate { key, label, content } => bound(&[
                key.to_string().as_bytes(),
                label.as_str().as_bytes(),
                content.digest.as_bytes(),
            ]),
            Self::Verify {
                key,
                label,
                content,
                tag,
            } => bound(&[
                named(key.as_ref()).as_bytes(),
                label.as_str().as_bytes(),
                content.digest.as_bytes(),
                tag.as_bytes(),
            ]),
            Self::Attest {
                key,
                audience,
                ttl,
                nonce,
            } => bound(&[
                key.to_string().as_bytes(),
                audience.as_str().as_bytes(),
                &ttl.to_be_bytes(),
                nonce.digest.as_bytes(),
            ]),
        }
    }
}

/// No key has an empty name.
fn named(key: Option<&KeyRef>) -> String {
    key.map(ToString::to_string).unwrap_or_default()
}

/// Random bytes beside a text that nobody may guess: what an approval is bound to goes on the log, and without them whoever reads the log
/// could try texts until one has its digest.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Salt([u8; Salt::LENGTH]);

impl Salt {
    /// As many as a key has that nobody guesses.
    pub const LENGTH: usize = 16;

    /// From random bytes.
    #[must_use]
    pub const fn new(random: [u8; Self::LENGTH]) -> Self {
        Self(random)
    }
}

impl Debug for Salt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Salt")
    }
}

impl Serialize for Salt {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&hex::encode(self.0))
    }
}

impl<'de> Deserialize<'de> for Salt {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = <std::borrow::Cow<'de, str>>::deserialize(deserializer)?;
        let mut bytes = [0; Self::LENGTH];
        hex::decode_to_slice(&*text, &mut bytes).map_err(serde::de::Error::custom)?;
        Ok(Self(bytes))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name<T: std::str::FromStr<Err: Debug>>(text: &str) -> T {
        text.parse().unwrap()
    }

    fn key(version: u32) -> KeyRef {
        KeyRef {
            name: name("key"),
            version: crate::key::KeyVersion(version),
        }
    }

    fn sign(version: u32, label: &str, content: &[u8]) -> Subject {
        Subject::Sign {
            key: key(version),
            rule: SigningRule::Labeled { label: name(label) },
            content: Content::of(content),
        }
    }

    fn send(inject: &str, head: &[u8], body: &[u8]) -> Subject {
        Subject::Send {
            method: "GET".to_owned(),
            url: "https://a.test/".to_owned(),
            headers: Vec::new(),
            inject: inject.to_owned(),
            digest: ContentDigest::of(head),
            body: Content::of(body),
        }
    }

    fn seal(version: u32, context: &[u8], text: &[u8], salt: u8) -> Subject {
        Subject::Seal {
            key: key(version),
            context: Content::of(context),
            plaintext: Content::of(text),
            salt: Salt::new([salt; Salt::LENGTH]),
        }
    }

    fn unseal(version: Option<u32>, context: &[u8], sealed: &[u8]) -> Subject {
        Subject::Unseal {
            key: version.map(key),
            context: Content::of(context),
            sealed: Content::unread(sealed),
        }
    }

    fn generate(version: u32, label: &str, content: &[u8]) -> Subject {
        Subject::Generate {
            key: key(version),
            label: name(label),
            content: Content::of(content),
        }
    }

    fn verify(version: Option<u32>, label: &str, content: &[u8], tag: &[u8]) -> Subject {
        Subject::Verify {
            key: version.map(key),
            label: name(label),
            content: Content::of(content),
            tag: ContentDigest::of(tag),
        }
    }

    fn attest(version: u32, audience: &str, ttl: u32, nonce: &[u8]) -> Subject {
        Subject::Attest {
            key: key(version),
            audience: name(audience),
            ttl,
            nonce: Content::of(nonce),
        }
    }

    #[test]
    fn an_approval_is_bound_to_everything_about_a_use() {
        let (bot, tob): (AgentName, AgentName) = (name("bot"), name("tob"));
        let (component, other) = (ComponentDigest::of(b"a"), ComponentDigest::of(b"b"));
        let (manifest, changed) = (ManifestDigest::of(b"a"), ManifestDigest::of(b"b"));
        let (g, h): (GrantAlias, GrantAlias) = (name("g"), name("h"));
        let one = sign(2, "l", b"x");
        let mut all = vec![
            one.request(&bot, &component, &manifest, &g),
            one.request(&tob, &component, &manifest, &g),
            one.request(&bot, &other, &manifest, &g),
            one.request(&bot, &component, &changed, &g),
            one.request(&bot, &component, &manifest, &h),
        ];
        let others = [
            sign(1, "l", b"x"),
            sign(2, "m", b"x"),
            sign(2, "l", b"y"),
            send("bearer", b"x", b""),
            send("none", b"x", b""),
            send("bearer", b"y", b""),
            send("bearer", b"x", b"y"),
            seal(2, b"c", b"x", 1),
            seal(1, b"c", b"x", 1),
            seal(2, b"d", b"x", 1),
            seal(2, b"c", b"y", 1),
            seal(2, b"c", b"x", 2),
            unseal(Some(2), b"c", b"x"),
            unseal(Some(1), b"c", b"x"),
            unseal(None, b"c", b"x"),
            unseal(Some(2), b"d", b"x"),
            unseal(Some(2), b"c", b"y"),
            generate(2, "l", b"x"),
            generate(1, "l", b"x"),
            generate(2, "m", b"x"),
            generate(2, "l", b"y"),
            verify(Some(2), "l", b"x", b"t"),
            verify(Some(1), "l", b"x", b"t"),
            verify(None, "l", b"x", b"t"),
            verify(Some(2), "m", b"x", b"t"),
            verify(Some(2), "l", b"y", b"t"),
            verify(Some(2), "l", b"x", b"u"),
            attest(2, "a", 60, b"n"),
            attest(1, "a", 60, b"n"),
            attest(2, "b", 60, b"n"),
            attest(2, "a", 61, b"n"),
            attest(2, "a", 60, b"m"),
        ];
        let requests = others
            .iter()
            .map(|subject| subject.request(&bot, &component, &manifest, &g));
        all.extend(requests);
        let different: std::collections::BTreeSet<_> = all.iter().collect();
        assert_eq!(different.len(), all.len());
        let again = sign(2, "l", b"x").request(&bot, &component, &manifest, &g);
        assert_eq!(again, all[0], "the control");
    }

    #[test]
    fn every_subject_survives_the_way_to_an_operator() {
        for subject in [
            sign(1, "l", b"x"),
            send("none", b"x", b"y"),
            seal(1, b"c", b"x\xff", 7),
            unseal(None, b"c", b"x"),
            generate(1, "l", b"x"),
            verify(Some(1), "l", b"x", b"t"),
            attest(1, "a", 60, b"n"),
        ] {
            let json = serde_json::to_string(&subject).unwrap();
            assert!(json.contains(&format!("\"do\":\"{}\"", subject.kind())), "{json}");
            assert!(
                serde_json::from_str::<Subject>(&json).unwrap() == subject,
                "{json}"
            );
        }
        let json = serde_json::to_string(&unseal(Some(1), b"c", b"a box")).unwrap();
        assert!(!json.contains("YSBib3g"), "nothing of a box: {json}");
    }
}
