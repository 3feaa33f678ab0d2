//! The frame of `labeled` signatures: opaque bytes that cannot pass for anything else. Not a standard: it is ours, and written here.
//!
//! ```text
//! 0xC1 0xFE  "claviger labeled v1" 0x00  u8 length of label ‖ label  u64 length of content (big-endian) ‖ content
//! ```
//! The first two bytes open no known signed structure: not DER (0x30), an SSH string (0x00), TLS 1.3 padding (0x20), EIP-191
//! (0x19), a COSE array (0x84, 0x85), TPM_GENERATED (0xFF), JOSE or any text (0xC1 never occurs in UTF-8), MessagePack (0xC1 is
//! never used), CBOR (tag 1 followed by a reserved byte).

use crate::name::{Label, MAX_NAME};

const MAGIC: &[u8] = b"\xC1\xFEclaviger labeled v1\0";

pub(super) fn message(label: &Label, content: &[u8]) -> Vec<u8> {
    const {
        assert!(
            MAX_NAME <= u8::MAX as usize,
            "the length of a label fits one byte"
        );
    };
    let label = label.as_str().as_bytes();
    let mut message = Vec::with_capacity(MAGIC.len() + 9 + label.len() + content.len());
    message.extend_from_slice(MAGIC);
    message.push(u8::try_from(label.len()).unwrap_or(u8::MAX));
    message.extend_from_slice(label);
    message.extend_from_slice(&(content.len() as u64).to_be_bytes());
    message.extend_from_slice(content);
    message
}
