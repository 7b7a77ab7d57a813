//! Files that are broken rather than crafted.

use super::*;
use proptest::prelude::*;
use std::sync::OnceLock;

/// A database with a few dozen rows, some of which spread over many pages.
fn valid() -> &'static [u8] {
    static BYTES: OnceLock<Vec<u8>> = OnceLock::new();
    BYTES.get_or_init(|| {
        let (_tmp, dir) = session(&[]);
        let mut db = OutboundDb::open(&dir).unwrap();
        db.write(|tx| {
            for i in 0..60_usize {
                tx.insert(&message(&format!("m{i}"), &"x".repeat(i * i * 5)), 0, now())?;
                tx.acknowledge([format!("m{i}").as_str()], crate::row::AckStatus::Completed, now())?;
            }
            tx.set_container_state(&crate::row::ContainerState::default(), now())
        })
        .unwrap();
        fs::read(dir.outbound_db()).unwrap()
    })
}

fn look_at_everything(bytes: &[u8]) -> Result<(), UntrustedError> {
    let (_tmp, dir) = folder();
    fs::write(dir.outbound_db(), bytes).unwrap();
    look(&dir, |s| {
        s.messages_after(0, MAX_ROWS)?;
        s.max_seq()?;
        s.message("m7")?;
        s.acks(&["m1".into(), "m59".into()])?;
        s.container_state()?;
        Ok(())
    })
}

#[test]
fn a_file_that_was_cut_short_is_an_error() {
    assert_eq!(look_at_everything(valid()), Ok(()));
    for bytes in [50, 100, 1000, 4096, 4097, 8192, valid().len() - 4096, valid().len() - 1] {
        let result = look_at_everything(&valid()[..bytes]);
        assert!(matches!(result, Err(UntrustedError::Corrupt(_))), "{bytes}: {result:?}");
    }
}

#[test]
fn what_is_no_database_is_an_error() {
    for bytes in [b"no database".as_slice(), &[0; 8192], &[0xff; 8192]] {
        let result = look_at_everything(bytes);
        assert!(matches!(result, Err(UntrustedError::Corrupt(_))), "{result:?}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, ..ProptestConfig::default() })]

    /// `look` fails on a panic, a hang, a descriptor left open or a file changed.
    #[test]
    fn no_damage_does_harm(
        flips in prop::collection::vec((prop_oneof![0..200_usize, 4096..4400_usize, 0..usize::MAX], any::<u8>()), 1..30),
        cut in prop::option::weighted(0.2, any::<prop::sample::Index>()),
    ) {
        let mut bytes = valid().to_vec();
        for (at, value) in flips {
            let at = at % bytes.len();
            bytes[at] = value;
        }
        if let Some(cut) = cut {
            bytes.truncate(cut.index(bytes.len()));
        }
        // Any result will do: a row may be damaged where SQLite cannot know it.
        look_at_everything(&bytes).ok();
    }
}
