//! What can go wrong with a request. Never says more of a refusal than the host did.

use std::fmt;

use wasip2::http::types::ErrorCode;

use crate::error::Refusal;

/// Why there is no answer, or not the rest of it.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Error {
    /// The host refused: nothing was sent, or nothing more is let through.
    Refused {
        /// Why.
        refusal: Refusal,
        /// The alias of the grant that the request falls under, if the host named one.
        grant: Option<String>,
    },
    /// The server took too long, by the grant's measure or by the agent's own.
    Timeout,
    /// The request was allowed, and the exchange failed.
    Transport(Fault),
    /// The answer is larger than the agent wanted.
    TooLarge {
        /// How many bytes it wanted at most.
        limit: usize,
    },
    /// The agent's request cannot be put into words: why.
    Unsendable(String),
    /// The answer is not what the agent expected: text, JSON, or server-sent events.
    Unreadable(String),
}

/// How an exchange failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Fault {
    /// The host name does not resolve.
    NoAddress,
    /// The host name leads to an address that the grant does not allow.
    ForbiddenAddress,
    /// No connection could be made.
    NoConnection,
    /// No TLS connection could be agreed on.
    Tls,
    /// The server's certificate is not acceptable.
    Certificate,
    /// What came is not HTTP as it must be.
    Protocol,
    /// The connection ended before the answer did.
    Incomplete,
    /// The header or trailer section of the answer is too large.
    HeadTooLarge,
    /// The body of the answer is larger than the grant allows.
    BodyTooLarge,
    /// The answer has a content encoding.
    Encoded,
    /// The request is too large, or its body is not as long as announced.
    RequestTooLarge,
    /// The exchange was cut off.
    Aborted,
}

impl Error {
    /// Of a code, as the host's `wasi:http` gives it.
    pub(super) fn of(code: &ErrorCode) -> Self {
        let fault = match code {
            ErrorCode::HttpRequestDenied => return Self::refused(Refusal::NotGranted),
            ErrorCode::HttpRequestUriInvalid | ErrorCode::HttpRequestMethodInvalid => {
                return Self::refused(Refusal::Invalid);
            }
            ErrorCode::InternalError(Some(text)) => {
                return Self::parse(text).unwrap_or_else(|| Self::refused(Refusal::Unavailable));
            }
            ErrorCode::HttpResponseTimeout
            | ErrorCode::ConnectionTimeout
            | ErrorCode::ConnectionReadTimeout
            | ErrorCode::ConnectionWriteTimeout
            | ErrorCode::DnsTimeout => return Self::Timeout,
            ErrorCode::DnsError(_) | ErrorCode::DestinationNotFound => Fault::NoAddress,
            ErrorCode::DestinationIpProhibited => Fault::ForbiddenAddress,
            ErrorCode::DestinationIpUnroutable
            | ErrorCode::DestinationUnavailable
            | ErrorCode::ConnectionRefused
            | ErrorCode::ConnectionLimitReached => Fault::NoConnection,
            ErrorCode::TlsProtocolError | ErrorCode::TlsAlertReceived(_) => Fault::Tls,
            ErrorCode::TlsCertificateError => Fault::Certificate,
            ErrorCode::HttpResponseIncomplete => Fault::Incomplete,
            ErrorCode::HttpResponseHeaderSectionSize(_)
            | ErrorCode::HttpResponseHeaderSize(_)
            | ErrorCode::HttpResponseTrailerSectionSize(_)
            | ErrorCode::HttpResponseTrailerSize(_) => Fault::HeadTooLarge,
            ErrorCode::HttpResponseBodySize(_) => Fault::BodyTooLarge,
            ErrorCode::HttpResponseContentCoding(_) => Fault::Encoded,
            ErrorCode::HttpRequestBodySize(_)
            | ErrorCode::HttpRequestLengthRequired
            | ErrorCode::HttpRequestUriTooLong
            | ErrorCode::HttpRequestHeaderSectionSize(_)
            | ErrorCode::HttpRequestHeaderSize(_)
            | ErrorCode::HttpRequestTrailerSectionSize(_)
            | ErrorCode::HttpRequestTrailerSize(_) => Fault::RequestTooLarge,
            ErrorCode::ConnectionTerminated => Fault::Aborted,
            ErrorCode::HttpResponseTransferCoding(_)
            | ErrorCode::HttpUpgradeFailed
            | ErrorCode::HttpProtocolError
            | ErrorCode::LoopDetected
            | ErrorCode::ConfigurationError
            | ErrorCode::InternalError(None) => Fault::Protocol,
        };
        Self::Transport(fault)
    }

    const fn refused(refusal: Refusal) -> Self {
        Self::Refused { refusal, grant: None }
    }

    /// Reads the form in which a host says a refusal: ``claviger: <refusal>`` or ``claviger: <refusal> by grant `<alias>` ``.
    fn parse(text: &str) -> Option<Self> {
        let said = text.strip_prefix("claviger: ")?;
        let (word, grant) = match said.split_once(" by grant `") {
            Some((word, rest)) => (word, Some(rest.strip_suffix('`')?.to_owned())),
            None => (said, None),
        };
        Some(Self::Refused {
            refusal: Refusal::parse(word)?,
            grant,
        })
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Refused { refusal, grant: None } => refusal.fmt(f),
            Self::Refused {
                refusal,
                grant: Some(grant),
            } => write!(f, "grant `{grant}`: {refusal}"),
            Self::Timeout => f.write_str("the server took too long"),
            Self::Transport(fault) => fault.fmt(f),
            Self::TooLarge { limit } => write!(f, "the answer has more than {limit} bytes"),
            Self::Unsendable(why) => write!(f, "the request cannot be sent: {why}"),
            Self::Unreadable(why) => write!(f, "the answer cannot be read: {why}"),
        }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NoAddress => "the host name does not resolve",
            Self::ForbiddenAddress => "the host name leads to an address that is not allowed",
            Self::NoConnection => "no connection could be made",
            Self::Tls => "no TLS connection could be agreed on",
            Self::Certificate => "the server's certificate is not acceptable",
            Self::Protocol => "the answer is not valid HTTP",
            Self::Incomplete => "the connection ended before the answer did",
            Self::HeadTooLarge => "the header section of the answer is too large",
            Self::BodyTooLarge => "the body of the answer is larger than the grant allows",
            Self::Encoded => "the answer has a content encoding",
            Self::RequestTooLarge => "the request is too large, or its body is not as long as announced",
            Self::Aborted => "the exchange was cut off",
        })
    }
}

impl std::error::Error for Error {}

impl From<Error> for std::io::Error {
    fn from(error: Error) -> Self {
        Self::other(error)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(code: &ErrorCode, refusal: Refusal, grant: Option<&str>) {
        let grant = grant.map(str::to_owned);
        assert_eq!(Error::of(code), Error::Refused { refusal, grant });
    }

    #[test]
    fn a_refusal_is_read_with_its_grant_and_nothing_else_is_taken_for_one() {
        let said = |text: &str| ErrorCode::InternalError(Some(text.to_owned()));
        check(&ErrorCode::HttpRequestDenied, Refusal::NotGranted, None);
        check(&ErrorCode::HttpRequestUriInvalid, Refusal::Invalid, None);
        check(
            &said("claviger: over-budget by grant `api`"),
            Refusal::OverBudget,
            Some("api"),
        );
        check(&said("claviger: suspended"), Refusal::Suspended, None);
        for odd in [
            "claviger: nonsense by grant `api`",
            "claviger: expired by grant `api",
            "claviger expired",
            "expired",
            "",
        ] {
            check(&said(odd), Refusal::Unavailable, None);
        }
        assert_eq!(
            Error::of(&ErrorCode::TlsCertificateError),
            Error::Transport(Fault::Certificate)
        );
    }
}
