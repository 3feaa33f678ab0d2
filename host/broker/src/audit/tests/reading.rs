//! Readers beside a writer: every entry, from any index, and proofs against the checkpoint.

use claviger_core::AuditSink as _;

use super::kit::{Place, append, key, options, small, wait};
use crate::audit::{Durability, ReadError, Reader, TileLog, verify};

#[test]
fn a_reader_gives_every_entry_from_any_index_while_the_log_is_open() {
    let place = Place::new();
    let log = TileLog::create(options(&place.log(), Durability::Process)).unwrap();
    let reader = Reader::open(&place.log()).unwrap();
    for n in 0..700 {
        append(&log, small(n)).unwrap();
        if [0, 255, 256, 600].contains(&n) {
            assert_eq!(
                reader.entries(n).map(|item| item.unwrap().1).collect::<Vec<_>>(),
                [small(n)],
                "{n}"
            );
            assert!(reader.entries(n + 1).next().is_none());
        }
    }
    for from in [0, 1, 255, 256, 511, 512, 699, 700, 5000] {
        let read: Vec<_> = reader.entries(from).map(Result::unwrap).collect();
        let expected: Vec<_> = (from..700).map(|n| (n, small(n))).collect();
        assert_eq!(read, expected, "from {from}");
    }
}

#[test]
fn every_covered_entry_has_a_proof_that_holds_for_it_and_for_no_other() {
    let place = Place::new();
    let log = TileLog::create(options(&place.log(), Durability::Process)).unwrap();
    for n in 0..300 {
        append(&log, small(n)).unwrap();
    }
    let reader = Reader::open(&place.log()).unwrap();
    assert!(matches!(
        reader.prove(0),
        Err(ReadError::NotCovered { index: 0, size: 0 })
    ));
    wait(log.checkpoint()).unwrap();
    let root = log.root().unwrap();
    append(&log, small(300)).unwrap();
    for index in [0, 1, 128, 255, 256, 298, 299] {
        let proof = reader.prove(index).unwrap();
        assert_eq!((proof.index, proof.size), (index, 300));
        assert!(
            proof.holds(&reader.json(index).unwrap().unwrap(), root),
            "{index}"
        );
        assert!(
            !proof.holds(&reader.json(index ^ 1).unwrap().unwrap(), root),
            "{index}"
        );
    }
    assert!(matches!(reader.prove(300), Err(ReadError::NotCovered { .. })));
    assert_eq!(reader.json(301).unwrap(), None);

    let tile = place.log().join("tile/0/000");
    let mut bytes = std::fs::read(&tile).unwrap();
    bytes[40] ^= 1;
    std::fs::write(&tile, bytes).unwrap();
    assert!(matches!(reader.prove(0), Err(ReadError::Tiles(_))));
}

#[test]
fn verifying_beside_a_busy_writer_never_sees_damage() {
    let place = Place::new();
    let log = TileLog::create(options(&place.log(), Durability::Process)).unwrap();
    let path = place.log();
    let done = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        let reading = scope.spawn(|| {
            let mut checked = 0;
            while !done.load(std::sync::atomic::Ordering::Acquire) || checked == 0 {
                let verified = verify(&path, &key().vkey()).unwrap();
                assert!(verified.entries >= verified.checkpoint_size);
                let read = Reader::open(&path)
                    .unwrap()
                    .entries(verified.entries.saturating_sub(300))
                    .map(Result::unwrap)
                    .count();
                assert!(read as u64 >= verified.entries.min(300));
                checked += 1;
            }
        });
        for n in 0..6000 {
            append(&log, small(n)).unwrap();
            if n % 700 == 0 {
                wait(log.checkpoint()).unwrap();
            }
        }
        done.store(true, std::sync::atomic::Ordering::Release);
        reading.join().unwrap();
    });
}
