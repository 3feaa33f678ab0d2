//! What an agent may ask an operator for: a grant in the operator's own words, checked piece by piece. Not a grant, and not a manifest:
//! nothing here allows anything.

use serde::{Deserialize, Serialize};

use crate::http::{Origin, Route};
use crate::name::{GrantAlias, KeyName};

/// An agent has at most this many proposals that no operator has looked at: as many as somebody reads.
pub const MAX_PENDING: usize = 20;
/// A proposal has at most this many routes.
pub const MAX_WISHED_ROUTES: usize = 16;
/// The worker cuts the texts of a wish to this many bytes each.
pub const MAX_WISH_TEXT: usize = 512;
/// The reason for a proposal has at most this many characters.
pub const MAX_REASON: usize = 200;

/// What an agent asks for, in its own spelling. Each text has at most [`MAX_WISH_TEXT`] bytes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "capability", rename_all = "kebab-case")]
pub enum WishText {
    /// To sign.
    Sign {
        /// With which key.
        key: String,
    },
    /// To send requests.
    Http {
        /// Where to.
        origin: String,
        /// Which; at most [`MAX_WISHED_ROUTES`], and the worker passes on at most one more.
        allow: Vec<String>,
    },
}

/// What an agent asks for, in the spelling of manifests.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "capability", rename_all = "kebab-case")]
pub enum Wish {
    /// To sign.
    Sign {
        /// With which key, as the agent calls it: that there is one is not said.
        key: KeyName,
    },
    /// To send requests.
    Http {
        /// Where to.
        origin: Origin,
        /// Which: each is a route.
        allow: Vec<String>,
    },
}

/// Why a wish is none that could be granted. The texts quote nothing.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum NotAWish {
    /// The key.
    #[error("the key is no name; {0}")]
    Key(String),
    /// The origin.
    #[error("the origin is not acceptable; {0}")]
    Origin(String),
    /// A route.
    #[error("a route is not acceptable; {0}")]
    Route(String),
    /// How many routes.
    #[error("it has {0} routes; expected 1 to {MAX_WISHED_ROUTES}")]
    Routes(usize),
    /// A text.
    #[error("a text has more than {MAX_WISH_TEXT} bytes")]
    TooLong,
}

impl Wish {
    /// Takes a wish in the agent's spelling.
    ///
    /// # Errors
    /// The first piece that no manifest could have.
    pub fn parse(text: &WishText) -> Result<Self, NotAWish> {
        match text {
            WishText::Sign { key } => {
                let key = key
                    .parse()
                    .map_err(|error: crate::name::NotAName| NotAWish::Key(error.to_string()))?;
                Ok(Self::Sign { key })
            }
            WishText::Http { origin, allow } => {
                if allow.is_empty() || allow.len() > MAX_WISHED_ROUTES {
                    return Err(NotAWish::Routes(allow.len()));
                }
                if allow
                    .iter()
                    .chain([origin])
                    .any(|text| text.len() > MAX_WISH_TEXT)
                {
                    return Err(NotAWish::TooLong);
                }
                let origin = origin
                    .parse::<Origin>()
                    .map_err(|error| NotAWish::Origin(error.to_string()))?;
                let allow = allow
                    .iter()
                    .map(|route| {
                        let route = route.parse::<Route>();
                        route
                            .map(|route| route.to_string())
                            .map_err(|error| NotAWish::Route(error.to_string()))
                    })
                    .collect::<Result<_, _>>()?;
                Ok(Self::Http { origin, allow })
            }
        }
    }

    /// The lines that an operator would add to the manifest. What is not in the spelling of manifests, because the log was changed, is
    /// left out.
    #[must_use]
    pub fn lines(&self, alias: &GrantAlias) -> String {
        match self {
            Self::Sign { key } => format!("[grants.{alias}]\nsign = {{ key = \"{key}\" }}\n"),
            Self::Http { origin, allow } => {
                let routes: Vec<_> = allow
                    .iter()
                    .filter_map(|route| route.parse::<Route>().ok())
                    .map(|route| format!("\"{route}\""))
                    .collect();
                let encoded = if allow.iter().any(|route| route.contains('%')) {
                    ", paths = \"encoded\""
                } else {
                    ""
                };
                format!(
                    "[grants.{alias}]\nhttp = {{ origin = \"{origin}\", allow = [{}]{encoded} }}\n",
                    routes.join(", ")
                )
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::manifest::{Capability, Manifest};

    const HEAD: &str = "schema = 1\n[agent]\nname = \"bot\"\ncomponent = \"bot.wasm\"\n";

    fn http(origin: &str, allow: &[&str]) -> WishText {
        WishText::Http {
            origin: origin.to_owned(),
            allow: allow.iter().map(|route| (*route).to_owned()).collect(),
        }
    }

    #[test]
    fn the_lines_of_a_wish_are_a_grant_that_allows_just_that() {
        let alias: GrantAlias = "more".parse().unwrap();
        let wish = Wish::parse(&http("https://api.test", &["GET /repos/*", "POST /a%20b"])).unwrap();
        let (manifest, _) = Manifest::parse(&format!("{HEAD}{}", wish.lines(&alias))).unwrap();
        let Capability::Http(grant) = &manifest.grants[&alias].capability else {
            panic!("{manifest:?}")
        };
        assert_eq!(grant.origin.to_string(), "https://api.test");
        let routes: Vec<_> = grant.allow.iter().map(ToString::to_string).collect();
        assert_eq!(routes, ["GET /repos/*", "POST /a%20b"]);
        assert!(grant.inject.is_none(), "no credential is proposed");

        let wish = Wish::parse(&WishText::Sign {
            key: "release".to_owned(),
        })
        .unwrap();
        let (manifest, _) = Manifest::parse(&format!("{HEAD}{}", wish.lines(&alias))).unwrap();
        assert!(
            matches!(&manifest.grants[&alias].capability, Capability::Sign { key, .. } if key.as_str() == "release")
        );
    }

    #[test]
    fn what_no_manifest_could_have_is_not_proposed() {
        for bad in [
            WishText::Sign {
                key: "a\" }\n[grants.all]".to_owned(),
            },
            WishText::Sign { key: String::new() },
            http("http://api.test", &["GET /"]),
            http("https://api.test\" }", &["GET /"]),
            http("https://api.test", &[]),
            http("https://api.test", &["GET /"; MAX_WISHED_ROUTES + 1]),
            http("https://api.test", &["GET /\"] }"]),
            http("https://api.test", &["GET /\u{202e}"]),
            http("https://api.test", &["GET /a\nb"]),
            http("https://api.test", &["CONNECT /"]),
            http(
                "https://api.test",
                &[&format!("GET /{}", "a".repeat(MAX_WISH_TEXT))],
            ),
        ] {
            assert!(Wish::parse(&bad).is_err(), "{bad:?}");
        }
        assert!(Wish::parse(&http("https://api.test", &["GET /"; MAX_WISHED_ROUTES])).is_ok());
    }

    #[test]
    fn a_changed_log_adds_no_line() {
        let forged = Wish::Http {
            origin: "https://api.test".parse().unwrap(),
            allow: vec!["GET /\"] }\n[grants.all]".to_owned(), "GET /a".to_owned()],
        };
        let lines = forged.lines(&"more".parse().unwrap());
        assert_eq!(
            lines,
            "[grants.more]\nhttp = { origin = \"https://api.test\", allow = [\"GET /a\"] }\n"
        );
    }
}
