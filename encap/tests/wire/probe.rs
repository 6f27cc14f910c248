//! Probes written and read, whatever they say, also through a dissector.

use etherparse::{EtherType, SlicedPacket};
use proptest::prelude::*;
use weft_encap::probe::{ETHERTYPE, Kind, LEN, Probe, ProbeError, REVISION_LEN};

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1000))]

    #[test]
    fn what_is_written_is_read(nonce in any::<u64>(), size in any::<u16>(), overhead in 36..400u16, room in 0..70_000usize) {
        let probe = Probe { kind: Kind::Request, nonce, size };
        let mut out = vec![0xee; room];
        match probe.write(overhead, &mut out) {
            Ok(len) => {
                prop_assert_eq!(len + usize::from(overhead) - 14, usize::from(size));
                prop_assert_eq!(Probe::parse(&out[..len]), Ok(probe));
                let parsed = SlicedPacket::from_ethernet(&out[..len]).unwrap();
                prop_assert_eq!(parsed.ether_payload().unwrap().ether_type, EtherType(ETHERTYPE));
                let mut echo = [0; LEN];
                prop_assert_eq!(probe.echo().unwrap().write(overhead, &mut echo), Ok(LEN));
                prop_assert_eq!(Probe::parse(&echo), Ok(Probe { kind: Kind::Echo, nonce, size }));
            }
            Err(ProbeError::TooSmall { min, .. }) => prop_assert!(usize::from(size) < min),
            Err(ProbeError::NoRoom { have, need }) => prop_assert!(have == room && have < need),
            Err(other) => prop_assert!(false, "{other:?}"),
        }
    }

    #[test]
    fn a_revision_is_read_as_it_was_written(nonce in any::<u64>(), revision in any::<i64>(), overhead in 36..400u16) {
        let request = Probe::revision_request(nonce, overhead);
        let mut frame = [0; REVISION_LEN];
        prop_assert_eq!(request.write(overhead, &mut frame), Ok(REVISION_LEN));
        prop_assert_eq!(Probe::parse(&frame), Ok(request));
        let reply = request.answer(revision).unwrap();
        prop_assert_eq!(reply.write(overhead, &mut frame), Ok(REVISION_LEN));
        prop_assert_eq!(Probe::parse(&frame), Ok(reply));
        prop_assert_eq!(reply.kind, Kind::RevisionReply { revision });
    }

    #[test]
    fn one_changed_byte_is_refused_or_says_something_else(at in 0..200usize, value in any::<u8>()) {
        let probe = Probe { kind: Kind::Request, nonce: 1, size: 236 };
        let mut frame = [0; 200];
        prop_assert_eq!(probe.write(50, &mut frame), Ok(200));
        prop_assume!(frame[at] != value);
        frame[at] = value;
        let same = Probe::parse(&frame) == Ok(probe);
        prop_assert_eq!(same, (6..12).contains(&at));
    }

    #[test]
    fn noise_is_no_probe(bytes in prop::collection::vec(any::<u8>(), 0..100)) {
        prop_assert!(Probe::parse(&bytes).is_err());
    }
}
