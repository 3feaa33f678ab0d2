//! What an agent may request over HTTP, as types that cannot be wrong: origins, targets, routes, headers, bodies, and how a credential
//! is attached. Sends nothing and resolves nothing: `claviger-egress` does.

mod capture;
mod decide;
mod grant;
mod header;
mod inject;
mod json;
mod origin;
mod place;
mod route;
mod target;

pub use capture::{Capture, Captured, MAX_CAPTURED, NotCaptured};
pub use decide::{BodyPresence, Decided, NotDecided, decide};
pub use grant::{
    AllowedQuery, AnswerRule, Budget, ByteBudget, CidrBlock, HttpGrant, NotACidr, NotAPin, SpkiPin, TlsFloor,
    Trust,
};
pub use header::{HeaderError, HeaderName, MAX_HEADER_VALUE, NotAHeaderName, checked_headers};
pub use inject::{
    AwsSigV4, ClientAuth, DpopToken, GithubApp, Injection, InjectionKind, OAuth2, OAuthGrant, WebhookScheme,
};
pub use json::{BodyRule, JsonError, JsonPredicate, JsonRule, JsonTest, MAX_PREDICATES, MAX_VALUES};
pub use origin::{NotAnOrigin, Origin};
pub use place::{JsonPlace, MAX_PLACE, NotAPlace};
pub use route::{MAX_ROUTES, Match, Method, NotARoute, PathPattern, Route, Router, overlapping};
pub use target::{MAX_TARGET, PathEncoding, Target, TargetError};
