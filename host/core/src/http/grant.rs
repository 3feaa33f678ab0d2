//! One grant of outbound HTTP with every choice made. Not the parsing of it, which is the manifest's.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;
use std::time::Duration;

use super::header::HeaderName;
use super::inject::Injection;
use super::json::BodyRule;
use super::origin::Origin;
use super::route::Route;
use super::target::PathEncoding;
use crate::manifest::Bytes;

/// What an agent may request under one grant.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct HttpGrant {
    /// Where to.
    pub origin: Origin,
    /// What: at least one.
    pub allow: Vec<Route>,
    /// Whether paths may hold percent-encoded characters.
    pub encoding: PathEncoding,
    /// The keys of the query; others are refused.
    pub query: Vec<AllowedQuery>,
    /// Request headers beyond those that any grant allows.
    pub headers: Vec<HeaderName>,
    /// The request's body.
    pub body: BodyRule,
    /// The answer.
    pub answer: AnswerRule,
    /// How long one request may take, from its decision to the end of its answer.
    pub timeout: Duration,
    /// Bytes in all, counted on the audit log.
    pub budget: ByteBudget,
    /// Whom to trust at the other end.
    pub trust: Trust,
    /// The private networks that the host name may lead into. Empty: public addresses only.
    pub private_networks: Vec<CidrBlock>,
    /// How a credential is attached, if one is.
    pub inject: Option<Injection>,
}

impl HttpGrant {
    /// The grant with every default: no query, no headers but the common ones, bodies of 1 MiB, answers of 8 MiB, 30 s, TLS 1.3 with
    /// public authorities, public addresses, no credential.
    #[must_use]
    pub fn new(origin: Origin, allow: Vec<Route>) -> Self {
        Self {
            origin,
            allow,
            encoding: PathEncoding::Refused,
            query: Vec::new(),
            headers: Vec::new(),
            body: BodyRule {
                content_types: Vec::new(),
                max: Bytes(1 << 20),
                json: None,
            },
            answer: AnswerRule {
                max: Bytes(8 << 20),
                headers: Vec::new(),
            },
            timeout: Duration::from_secs(30),
            budget: ByteBudget::default(),
            trust: Trust::default(),
            private_networks: Vec::new(),
            inject: None,
        }
    }

    /// Whether the body is read whole before the request is decided.
    #[must_use]
    pub fn needs_whole_body(&self) -> bool {
        self.body.json.is_some() || self.inject.as_ref().is_some_and(Injection::needs_whole_body)
    }
}

/// A key of the query, and what it may be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AllowedQuery {
    /// The key, as written in a URL.
    pub key: String,
    /// Its values, as written in a URL. Empty: any.
    pub values: Vec<String>,
}

/// What an answer may be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AnswerRule {
    /// Its body has at most this many bytes.
    pub max: Bytes,
    /// Response headers beyond the common ones.
    pub headers: Vec<HeaderName>,
}

/// Bytes that a grant may move in all, counted on the audit log by agent name and alias.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ByteBudget {
    /// Of request bodies.
    pub sent: Budget,
    /// Of answers' bodies.
    pub received: Budget,
}

/// One budget: so many bytes, or no limit.
pub type Budget = Option<Bytes>;

/// The least version of TLS.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub enum TlsFloor {
    /// `tls = "1.2"`: an exception, spoken aloud.
    V1_2,
    /// RFC 8446.
    #[default]
    V1_3,
}

/// Whom to trust at the other end.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Trust {
    /// The least version of TLS.
    pub tls: TlsFloor,
    /// Authorities as DER, instead of the public ones. Empty: the public ones.
    pub authorities: Vec<Vec<u8>>,
    /// The server's own certificate must have one of these keys. Empty: any.
    pub pins: Vec<SpkiPin>,
}

/// The SHA-256 digest of a certificate's SubjectPublicKeyInfo (RFC 7469 §2.4).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct SpkiPin(pub [u8; 32]);

/// A text is no pin.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("expected `sha256/` and 44 characters of base64")]
pub struct NotAPin;

impl FromStr for SpkiPin {
    type Err = NotAPin;
    fn from_str(text: &str) -> Result<Self, NotAPin> {
        use base64ct::Encoding as _;
        let mut pin = [0; 32];
        let text = text.strip_prefix("sha256/").ok_or(NotAPin)?;
        match base64ct::Base64::decode(text, &mut pin) {
            Ok(bytes) if bytes.len() == 32 => Ok(Self(pin)),
            Ok(_) | Err(_) => Err(NotAPin),
        }
    }
}

impl fmt::Display for SpkiPin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        use base64ct::Encoding as _;
        write!(f, "sha256/{}", base64ct::Base64::encode_string(&self.0))
    }
}

/// A block of addresses (RFC 4632).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct CidrBlock {
    // Invariant: the bits after the prefix are zero; never an IPv6 address that stands for an IPv4 one.
    address: IpAddr,
    // Invariant: at most 32, or 128.
    prefix: u8,
}

/// A text is no block of addresses.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum NotACidr {
    /// Not an address and a length.
    #[error("expected an address block such as `10.1.0.0/16` or `fd00::/8`")]
    Shape,
    /// Bits after the prefix.
    #[error("the address has bits set after the prefix; expected the first address of the block")]
    HostBits,
    /// An IPv4 address within an IPv6 one.
    #[error("expected the IPv4 block itself")]
    Mapped,
}

impl CidrBlock {
    /// Whether it holds every address of its family: no block, but the absence of one.
    #[must_use]
    pub const fn is_everything(&self) -> bool {
        self.prefix == 0
    }

    /// Whether an address is in the block. An IPv6 address that stands for an IPv4 one is looked at as that.
    #[must_use]
    pub fn contains(&self, address: IpAddr) -> bool {
        match (self.address, address.to_canonical()) {
            (IpAddr::V4(block), IpAddr::V4(address)) => {
                let shift = 32_u32.saturating_sub(u32::from(self.prefix));
                block.to_bits().checked_shr(shift).unwrap_or(0)
                    == address.to_bits().checked_shr(shift).unwrap_or(0)
            }
            (IpAddr::V6(block), IpAddr::V6(address)) => {
                let shift = 128_u32.saturating_sub(u32::from(self.prefix));
                block.to_bits().checked_shr(shift).unwrap_or(0)
                    == address.to_bits().checked_shr(shift).unwrap_or(0)
            }
            (IpAddr::V4(_), IpAddr::V6(_)) | (IpAddr::V6(_), IpAddr::V4(_)) => false,
        }
    }
}

impl FromStr for CidrBlock {
    type Err = NotACidr;
    fn from_str(text: &str) -> Result<Self, NotACidr> {
        let (address, digits) = text.split_once('/').ok_or(NotACidr::Shape)?;
        // The standard library refuses the octal and shortened spellings that other parsers take.
        let address: IpAddr = address.parse().map_err(|_| NotACidr::Shape)?;
        let plain = digits == "0" || (!digits.starts_with('0') && digits.bytes().all(|b| b.is_ascii_digit()));
        let prefix: u8 = digits.parse().map_err(|_| NotACidr::Shape)?;
        let (width, bits) = match address {
            IpAddr::V4(address) => (32, u128::from(address.to_bits())),
            IpAddr::V6(address) => (128, address.to_bits()),
        };
        if !plain || prefix > width {
            return Err(NotACidr::Shape);
        }
        if address.to_canonical() != address {
            return Err(NotACidr::Mapped);
        }
        let below = u32::from(width - prefix);
        if bits & 1_u128.checked_shl(below).map_or(u128::MAX, |bit| bit - 1) != 0 {
            return Err(NotACidr::HostBits);
        }
        Ok(Self { address, prefix })
    }
}

impl fmt::Display for CidrBlock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.prefix)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_block_has_one_spelling_and_holds_what_it_says() {
        for (block, inside, outside) in [
            ("10.0.0.0/8", "10.255.0.1", "11.0.0.1"),
            ("127.0.0.1/32", "127.0.0.1", "127.0.0.2"),
            ("127.0.0.0/8", "::ffff:127.0.0.1", "::1"),
            ("::1/128", "::1", "::2"),
            ("fd00::/8", "fd12::1", "fe80::1"),
            ("0.0.0.0/0", "1.2.3.4", "::1"),
            ("::/0", "fd00::1", "1.2.3.4"),
        ] {
            let parsed: CidrBlock = block.parse().unwrap();
            assert_eq!(parsed.to_string(), block);
            assert!(parsed.contains(inside.parse().unwrap()), "{block} {inside}");
            assert!(!parsed.contains(outside.parse().unwrap()), "{block} {outside}");
        }
        for bad in [
            "10.0.0.0",
            "10.0.0.1/8",
            "012.0.0.1/32",
            "10.0.0.0/08",
            "10.0.0.0/33",
            "10/8",
            "::ffff:10.0.0.0/104",
            "fd00::1/8",
            "10.0.0.0/+8",
            "10.0.0.0/",
            "/8",
        ] {
            assert!(bad.parse::<CidrBlock>().is_err(), "{bad}");
        }
    }

    #[test]
    fn a_pin_has_one_spelling() {
        let text = format!("sha256/{}=", "A".repeat(43));
        assert_eq!(text.parse::<SpkiPin>().unwrap().to_string(), text);
        for bad in [
            "sha256/AAAA",
            "sha1/AAAA",
            &"A".repeat(44),
            &format!("sha256/{}", "A".repeat(44)),
        ] {
            assert!(bad.parse::<SpkiPin>().is_err(), "{bad}");
        }
    }
}
