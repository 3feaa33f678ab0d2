//! What an agent is told of a request that came to nothing: codes of `wasi:http`, and for refusals one constant form of text. Holds no
//! text of the host or the server: every word is in here.
//!
//! A refusal that `wasi:http` has no word for is `internal-error` with the text
//!
//! ```text
//! claviger: <refusal>
//! claviger: <refusal> by grant `<alias>`
//! ```
//!
//! where `<refusal>` is one of the words of `claviger:credentials/types.refusal`. The SDK reads this; whoever else wants to, can.

use claviger_core::egress::{Fault, SendError};
use claviger_core::{GrantAlias, Refusal};
use wasmtime_wasi_http::Error;
use wasmtime_wasi_http::p2::bindings::http::types::{DnsErrorPayload, ErrorCode};

/// The code for what went wrong.
pub(super) fn wasi(error: &SendError) -> Error {
    match error {
        SendError::Refused { refusal, grant } => match (refusal, grant) {
            // It falls under no grant: there is none to name, and `wasi:http` has a word for it.
            (Refusal::NotGranted, None) => Error::HttpRequestDenied,
            // No grant was looked for: the URL is not in the one accepted spelling.
            (Refusal::Invalid, None) => Error::HttpRequestUriInvalid,
            (
                Refusal::NotGranted
                | Refusal::Invalid
                | Refusal::Expired
                | Refusal::Revoked
                | Refusal::Suspended
                | Refusal::OverBudget
                | Refusal::Throttled
                | Refusal::NotApproved
                | Refusal::Unavailable,
                grant,
            ) => refused(*refusal, grant.as_ref()),
        },
        SendError::Failed { fault, grant } => failed(*fault, grant.as_ref()),
    }
}

fn failed(fault: Fault, grant: Option<&GrantAlias>) -> Error {
    match fault {
        Fault::NoAddress => Error::DnsError {
            rcode: None,
            info_code: None,
        },
        Fault::ForbiddenAddress => Error::DestinationIpProhibited,
        Fault::NoConnection => Error::ConnectionRefused,
        Fault::Crowded => Error::ConnectionLimitReached,
        Fault::Timeout => Error::HttpResponseTimeout,
        Fault::Tls => Error::TlsProtocolError,
        Fault::Certificate => Error::TlsCertificateError,
        Fault::Protocol => Error::HttpProtocolError,
        Fault::Incomplete => Error::HttpResponseIncomplete,
        Fault::HeadTooLarge => Error::HttpResponseHeaderSectionSize(None),
        Fault::BodyTooLarge => Error::HttpResponseBodySize(None),
        Fault::Encoded => Error::HttpResponseContentCoding(None),
        Fault::RequestBody => Error::HttpRequestBodySize(None),
        Fault::RequestAborted => Error::ConnectionTerminated,
        // The operator has to look at both: to the agent they are refusals.
        Fault::Token => refused(Refusal::Unavailable, grant),
        Fault::Reflected => refused(Refusal::Suspended, grant),
    }
}

/// The constant form.
fn refused(refusal: Refusal, grant: Option<&GrantAlias>) -> Error {
    let word = word(refusal);
    Error::InternalError(Some(match grant {
        Some(grant) => format!("claviger: {word} by grant `{grant}`"),
        None => format!("claviger: {word}"),
    }))
}

/// As WIT spells it.
const fn word(refusal: Refusal) -> &'static str {
    match refusal {
        Refusal::NotGranted => "not-granted",
        Refusal::Expired => "expired",
        Refusal::Revoked => "revoked",
        Refusal::Suspended => "suspended",
        Refusal::OverBudget => "over-budget",
        Refusal::Throttled => "throttled",
        Refusal::NotApproved => "not-approved",
        Refusal::Invalid => "invalid",
        Refusal::Unavailable => "unavailable",
    }
}

/// The code of an error that a body ended with. wasmtime-wasi-http has this for answers only; what is not made here is a protocol error.
pub(super) fn code(error: &Error) -> ErrorCode {
    match error {
        Error::DnsError { .. } => ErrorCode::DnsError(DnsErrorPayload {
            rcode: None,
            info_code: None,
        }),
        Error::DestinationIpProhibited => ErrorCode::DestinationIpProhibited,
        Error::ConnectionRefused => ErrorCode::ConnectionRefused,
        Error::ConnectionTerminated => ErrorCode::ConnectionTerminated,
        Error::ConnectionLimitReached => ErrorCode::ConnectionLimitReached,
        Error::ConnectionReadTimeout => ErrorCode::ConnectionReadTimeout,
        Error::HttpRequestDenied => ErrorCode::HttpRequestDenied,
        Error::HttpRequestUriInvalid => ErrorCode::HttpRequestUriInvalid,
        Error::HttpRequestBodySize(size) => ErrorCode::HttpRequestBodySize(*size),
        Error::HttpResponseTimeout => ErrorCode::HttpResponseTimeout,
        Error::TlsProtocolError => ErrorCode::TlsProtocolError,
        Error::TlsCertificateError => ErrorCode::TlsCertificateError,
        Error::HttpResponseIncomplete => ErrorCode::HttpResponseIncomplete,
        Error::HttpResponseHeaderSectionSize(size) => ErrorCode::HttpResponseHeaderSectionSize(*size),
        Error::HttpResponseTrailerSectionSize(size) => ErrorCode::HttpResponseTrailerSectionSize(*size),
        Error::HttpResponseBodySize(size) => ErrorCode::HttpResponseBodySize(*size),
        Error::HttpResponseContentCoding(_) => ErrorCode::HttpResponseContentCoding(None),
        Error::InternalError(text) => ErrorCode::InternalError(text.clone()),
        _ => ErrorCode::HttpProtocolError,
    }
}

/// What `wasi:io/error` says of the error that a body ended with, if it is one: the refusal in its form, or the code as WIT spells it.
pub(crate) fn told(error: &wasmtime_wasi_io::streams::Error) -> Option<String> {
    let code = match error.downcast_ref::<ErrorCode>() {
        Some(code) => code.clone(),
        None => code(error.downcast_ref::<Error>()?),
    };
    Some(match code {
        ErrorCode::InternalError(Some(text)) => text,
        ErrorCode::DnsError(_) => "DNS-error".to_owned(),
        ErrorCode::DestinationIpProhibited => "destination-IP-prohibited".to_owned(),
        ErrorCode::ConnectionRefused => "connection-refused".to_owned(),
        ErrorCode::ConnectionTerminated => "connection-terminated".to_owned(),
        ErrorCode::ConnectionLimitReached => "connection-limit-reached".to_owned(),
        ErrorCode::ConnectionReadTimeout => "connection-read-timeout".to_owned(),
        ErrorCode::HttpRequestDenied => "HTTP-request-denied".to_owned(),
        ErrorCode::HttpRequestUriInvalid => "HTTP-request-URI-invalid".to_owned(),
        ErrorCode::HttpRequestBodySize(_) => "HTTP-request-body-size".to_owned(),
        ErrorCode::HttpResponseTimeout => "HTTP-response-timeout".to_owned(),
        ErrorCode::TlsProtocolError => "TLS-protocol-error".to_owned(),
        ErrorCode::TlsCertificateError => "TLS-certificate-error".to_owned(),
        ErrorCode::HttpResponseIncomplete => "HTTP-response-incomplete".to_owned(),
        ErrorCode::HttpResponseHeaderSectionSize(_) => "HTTP-response-header-section-size".to_owned(),
        ErrorCode::HttpResponseTrailerSectionSize(_) => "HTTP-response-trailer-section-size".to_owned(),
        ErrorCode::HttpResponseBodySize(_) => "HTTP-response-body-size".to_owned(),
        ErrorCode::HttpResponseContentCoding(_) => "HTTP-response-content-coding".to_owned(),
        _ => "HTTP-protocol-error".to_owned(),
    })
}
