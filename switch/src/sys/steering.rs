//! Which queue of a multi-queue TAP a frame goes to: always the same for one flow.
//!
//! By itself the kernel moves a flow to the queue that last wrote its other direction (tun_automq_select_queue), and
//! frames change places when two workers hold some each. A program of ours decides instead (TUNSETSTEERINGEBPF,
//! Linux 4.16): by addresses and, of what is no fragment, by ports.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use super::check;

const TUNSETSTEERINGEBPF: libc::c_ulong = 0x8004_54e0;
const BPF_PROG_LOAD: libc::c_int = 5;
const BPF_PROG_TYPE_SOCKET_FILTER: u32 = 1;

// Operations (include/uapi/linux/bpf.h); registers: 0 result, 1 argument, 6 packet, 7 sum, 8 header length.
const LOAD_BYTE: u8 = 0x30;
const LOAD_HALF: u8 = 0x28;
const LOAD_WORD: u8 = 0x20;
const LOAD_WORD_BEHIND: u8 = 0x40;
const MOVE: u8 = 0xbf;
const MOVE_NUMBER: u8 = 0xb7;
const XOR: u8 = 0xaf;
const AND_NUMBER: u8 = 0x57;
const SHIFT_LEFT: u8 = 0x67;
const SHIFT_RIGHT: u8 = 0x77;
const MULTIPLY: u8 = 0x27;
const JUMP_IF: u8 = 0x15;
const JUMP_UNLESS: u8 = 0x55;
const JUMP: u8 = 0x05;
const EXIT: u8 = 0x95;

/// Spreads what differs in few bits over all (2^32 over the golden ratio).
const SPREAD: i32 = 0x9e37_79b1_u32.cast_signed();

/// `struct bpf_insn`: operation, registers, jump, number.
#[repr(C)]
#[derive(Clone, Copy)]
struct Instruction {
    operation: u8,
    registers: u8,
    jump: i16,
    number: i32,
}

const fn ins(operation: u8, to: u8, from: u8, jump: i16, number: i32) -> Instruction {
    Instruction { operation, registers: from << 4 | to, jump, number }
}

const fn load(operation: u8, at: i32) -> Instruction {
    ins(operation, 0, 0, 0, at)
}

const ADD_TO_SUM: Instruction = ins(XOR, 7, 0, 0, 0);

/// Offsets are those in an Ethernet frame without tags; what it cannot read goes to the first queue.
const PROGRAM: [Instruction; 48] = [
    ins(MOVE, 6, 1, 0, 0),
    ins(MOVE_NUMBER, 7, 0, 0, 0),
    load(LOAD_HALF, 12),
    ins(JUMP_IF, 0, 0, 22, 0x0800),
    ins(JUMP_UNLESS, 0, 0, 39, 0x86dd),
    // IPv6: both addresses, and the ports that follow the fixed header.
    load(LOAD_WORD, 22),
    ADD_TO_SUM,
    load(LOAD_WORD, 26),
    ADD_TO_SUM,
    load(LOAD_WORD, 30),
    ADD_TO_SUM,
    load(LOAD_WORD, 34),
    ADD_TO_SUM,
    load(LOAD_WORD, 38),
    ADD_TO_SUM,
    load(LOAD_WORD, 42),
    ADD_TO_SUM,
    load(LOAD_WORD, 46),
    ADD_TO_SUM,
    load(LOAD_WORD, 50),
    ADD_TO_SUM,
    load(LOAD_BYTE, 20),
    ins(JUMP_IF, 0, 0, 1, 6),
    ins(JUMP_UNLESS, 0, 0, 20, 17),
    load(LOAD_WORD, 54),
    ins(JUMP, 0, 0, 16, 0),
    // IPv4: both addresses, and the ports behind a header of any length.
    load(LOAD_WORD, 26),
    ADD_TO_SUM,
    load(LOAD_WORD, 30),
    ADD_TO_SUM,
    load(LOAD_HALF, 20),
    ins(AND_NUMBER, 0, 0, 0, 0x3fff),
    ins(JUMP_UNLESS, 0, 0, 11, 0),
    load(LOAD_BYTE, 23),
    ins(JUMP_IF, 0, 0, 2, 6),
    ins(JUMP_IF, 0, 0, 1, 17),
    ins(JUMP_UNLESS, 0, 0, 7, 132),
    load(LOAD_BYTE, 14),
    ins(AND_NUMBER, 0, 0, 0, 0x0f),
    ins(SHIFT_LEFT, 0, 0, 0, 2),
    ins(MOVE, 8, 0, 0, 0),
    ins(LOAD_WORD_BEHIND, 0, 8, 0, 14),
    // The ports, and the queue.
    ins(MULTIPLY, 7, 0, 0, SPREAD),
    ADD_TO_SUM,
    ins(MOVE, 0, 7, 0, 0),
    ins(MULTIPLY, 0, 0, 0, SPREAD),
    ins(SHIFT_RIGHT, 0, 0, 0, 16),
    ins(EXIT, 0, 0, 0, 0),
];

/// The part of `union bpf_attr` that loading takes.
#[repr(C)]
#[derive(Default)]
struct LoadAttributes {
    kind: u32,
    instructions: u32,
    program: u64,
    license: u64,
    log_level: u32,
    log_size: u32,
    log: u64,
    kernel_version: u32,
    flags: u32,
}

/// Lets the program choose among a device's queues.
///
/// # Errors
/// The kernel's: EPERM without CAP_BPF, ENOSYS without BPF, EINVAL before Linux 4.16.
pub(super) fn by_flow(device: BorrowedFd<'_>) -> io::Result<()> {
    let license = c"Apache-2.0";
    let attributes = LoadAttributes {
        kind: BPF_PROG_TYPE_SOCKET_FILTER,
        instructions: PROGRAM.len() as u32,
        program: PROGRAM.as_ptr().expose_provenance() as u64,
        license: license.as_ptr().expose_provenance() as u64,
        ..LoadAttributes::default()
    };
    let len = size_of::<LoadAttributes>();
    // SAFETY: the attributes and what they point to live for the whole call, which only reads them.
    let loaded = check(unsafe { libc::syscall(libc::SYS_bpf, BPF_PROG_LOAD, &raw const attributes, len) })?;
    let number = libc::c_int::try_from(loaded).map_err(io::Error::other)?;
    // SAFETY: the kernel has just given us this descriptor.
    let program = unsafe { OwnedFd::from_raw_fd(number) };
    let descriptor = program.as_raw_fd();
    // SAFETY: TUNSETSTEERINGEBPF reads the int that we own; the device keeps the program itself.
    check(unsafe { libc::ioctl(device.as_raw_fd(), TUNSETSTEERINGEBPF, &raw const descriptor) }.into())?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Runs the program on a frame, as the kernel would: a load beyond its end ends it with zero.
    fn run(frame: &[u8]) -> u32 {
        let mut registers = [0_u64; 11];
        let mut next = 0;
        loop {
            let Instruction { operation, registers: pair, jump, number } = PROGRAM[next];
            next += 1;
            let (to, from) = (usize::from(pair & 15), usize::from(pair >> 4));
            let sign_extended = i64::from(number).cast_unsigned();
            let jump = |taken: bool| if taken { jump.cast_unsigned().into() } else { 0_usize };
            let at = usize::try_from(number).unwrap_or(usize::MAX);
            let read = |at: usize, len: usize| -> Option<u64> {
                let bytes = frame.get(at..at.checked_add(len)?)?;
                Some(bytes.iter().fold(0, |value, byte| value << 8 | u64::from(*byte)))
            };
            let loaded = match operation {
                LOAD_BYTE => Some(read(at, 1)),
                LOAD_HALF => Some(read(at, 2)),
                LOAD_WORD => Some(read(at, 4)),
                LOAD_WORD_BEHIND => Some(read(at + registers[from] as usize, 4)),
                _ => None,
            };
            match (loaded, operation) {
                (Some(None), _) => return 0,
                (Some(Some(value)), _) => registers[0] = value,
                (None, MOVE) => registers[to] = registers[from],
                (None, MOVE_NUMBER) => registers[to] = sign_extended,
                (None, XOR) => registers[to] ^= registers[from],
                (None, AND_NUMBER) => registers[to] &= sign_extended,
                (None, SHIFT_LEFT) => registers[to] <<= number,
                (None, SHIFT_RIGHT) => registers[to] >>= number,
                (None, MULTIPLY) => registers[to] = registers[to].wrapping_mul(sign_extended),
                (None, JUMP_IF) => next += jump(registers[to] == sign_extended),
                (None, JUMP_UNLESS) => next += jump(registers[to] != sign_extended),
                (None, JUMP) => next += jump(true),
                (None, EXIT) => return registers[0] as u32,
                (None, other) => panic!("operation {other:#x}"),
            }
        }
    }

    fn udp(ipv6: bool, port: u16) -> Vec<u8> {
        let builder = etherparse::PacketBuilder::ethernet2([2; 6], [4; 6]);
        let mut frame = Vec::new();
        let payload = [7; 30];
        if ipv6 {
            builder.ipv6([1; 16], [2; 16], 64).udp(port, 53).write(&mut frame, &payload).unwrap();
        } else {
            builder.ipv4([10, 0, 0, 1], [10, 0, 0, 2], 64).udp(port, 53).write(&mut frame, &payload).unwrap();
        }
        frame
    }

    #[test]
    fn flows_are_spread_over_the_queues() {
        for (ipv6, queues) in [(false, 2), (true, 2), (false, 7), (true, 8)] {
            let mut flows = vec![0; queues];
            (0..1000).for_each(|flow| flows[run(&udp(ipv6, 30_000 + flow)) as usize % queues] += 1);
            let even = 1000 / queues;
            assert!(flows.iter().all(|count| (even / 2..even * 2).contains(count)), "{flows:?}");
        }
    }

    #[test]
    fn every_piece_of_a_flow_goes_to_one_queue() {
        let whole = udp(false, 4000);
        let mut later = whole.clone();
        later[40..].fill(9);
        assert_eq!(run(&whole), run(&later), "whatever it carries");
        let mut options = whole.clone();
        options[14] = 0x46;
        options.splice(34..34, [1, 1, 1, 1]);
        assert_eq!(run(&whole), run(&options), "whatever its header's length");
        let fragment = |offset: u8, port: u16| {
            let mut frame = udp(false, port);
            frame[20] = if offset == 0 { 0x20 } else { 0 };
            frame[21] = offset;
            frame
        };
        assert_eq!(run(&fragment(0, 4000)), run(&fragment(5, 60_000)), "fragments by their addresses alone");
    }

    #[test]
    fn what_cannot_be_read_goes_to_the_first_queue() {
        for frame in [&[][..], &[0; 60], &udp(false, 1)[..30], &udp(true, 1)[..55]] {
            assert_eq!(run(frame), 0);
        }
    }
}
