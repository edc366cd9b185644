//! The DNS message format, as far as a forwarding name server needs it: one question in, addresses or
//! names out. Any bytes can be parsed; what is odd is answered with an error or not at all.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

pub const A: u16 = 1;
pub const PTR: u16 = 12;
pub const AAAA: u16 = 28;
const OPT: u16 = 41;
pub const ANY: u16 = 255;
pub const IN: u16 = 1;

const HEADER: usize = 12;
/// What a client takes over UDP when it does not say.
const PLAIN_UDP: usize = 512;
/// More than this is asking for fragments.
const LARGEST_UDP: usize = 4096;
/// What we say that we take over UDP.
const OUR_UDP: u16 = 1232;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Code {
    NoError = 0,
    FormatError = 1,
    ServerFailure = 2,
    NoSuchName = 3,
    NotImplemented = 4,
}

/// The question of a message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Question {
    /// Lower case, without the last dot; dots inside labels and bytes that are no text are escaped.
    pub name: String,
    pub kind: u16,
    pub class: u16,
    /// Bytes that the client takes over UDP.
    pub udp: usize,
    extended: bool,
    end: usize,
}

/// Why there is no question to answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Malformed {
    /// Not a query: answering could start an endless exchange.
    Silence,
    Answer(Code),
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Record {
    Address(Ipv4Addr),
    Address6(Ipv6Addr),
    /// A name whose labels are at most 63 bytes long.
    Pointer(String),
}

/// # Errors
/// What to do with a message that is no plain query.
pub fn question(message: &[u8]) -> Result<Question, Malformed> {
    let header = message.first_chunk::<HEADER>().ok_or(Malformed::Silence)?;
    if header[2] & 0x80 != 0 {
        return Err(Malformed::Silence);
    }
    if header[2] & 0x78 != 0 {
        return Err(Malformed::Answer(Code::NotImplemented));
    }
    let count = |at: usize| u16::from_be_bytes([header[at], header[at + 1]]);
    let malformed = Malformed::Answer(Code::FormatError);
    if count(4) != 1 {
        return Err(malformed);
    }
    let (name, at) = name(message, HEADER).ok_or(malformed)?;
    let fixed = message.get(at..at + 4).ok_or(malformed)?;
    let end = at + 4;
    // Clients put the OPT record first among the additional ones; nothing stands before those.
    let opt = (count(6) == 0 && count(8) == 0 && count(10) > 0)
        .then(|| message.get(end..end + 5))
        .flatten()
        .filter(|record| record[..3] == [0, 0, OPT.to_be_bytes()[1]])
        .map(|record| usize::from(u16::from_be_bytes([record[3], record[4]])));
    Ok(Question {
        name,
        kind: u16::from_be_bytes([fixed[0], fixed[1]]),
        class: u16::from_be_bytes([fixed[2], fixed[3]]),
        udp: opt.unwrap_or(PLAIN_UDP).clamp(PLAIN_UDP, LARGEST_UDP),
        extended: opt.is_some(),
        end,
    })
}

/// The answer to `question`, which was read from `message`; what does not fit into `limit` is left
/// out and the answer marked as cut.
#[must_use]
pub fn reply(
    message: &[u8],
    question: &Question,
    code: Code,
    records: &[Record],
    ttl: u32,
    limit: usize,
) -> Vec<u8> {
    let mut bytes = header(message, code);
    bytes[5] = 1;
    bytes.extend(&message[HEADER..question.end]);
    let opt = if question.extended { 11 } else { 0 };
    let mut count = 0_u16;
    for record in records {
        let before = bytes.len();
        append(&mut bytes, record, ttl);
        if bytes.len() + opt > limit || count == u16::MAX {
            bytes.truncate(before);
            bytes[2] |= 0x02;
            break;
        }
        count += 1;
    }
    bytes[6..8].copy_from_slice(&count.to_be_bytes());
    if question.extended {
        bytes.extend([0, 0, OPT.to_be_bytes()[1]]);
        bytes.extend(OUR_UDP.to_be_bytes());
        bytes.extend([0; 6]);
        bytes[11] = 1;
    }
    bytes
}

/// The answer to a message that holds no question; it must have a header.
#[must_use]
pub fn refusal(message: &[u8], code: Code) -> Vec<u8> {
    header(message, code)
}

/// Whether a message is an answer to another, by identity and question.
#[must_use]
pub fn answers(reply: &[u8], query: &[u8], question: &Question) -> bool {
    reply.len() >= HEADER
        && reply[..2] == query[..2]
        && reply[2] & 0x80 != 0
        && (reply[4..6] == [0, 0]
            || reply.get(HEADER..question.end).is_some_and(|echo| {
                echo.eq_ignore_ascii_case(query.get(HEADER..question.end).unwrap_or_default())
            }))
}

#[must_use]
pub fn is_truncated(reply: &[u8]) -> bool {
    reply.get(2).is_some_and(|flags| flags & 0x02 != 0)
}

/// The address that a name below `in-addr.arpa` or `ip6.arpa` stands for.
#[must_use]
pub fn reverse(name: &str) -> Option<IpAddr> {
    reverse4(name).map(IpAddr::V4).or_else(|| reverse6(name).map(IpAddr::V6))
}

fn reverse6(name: &str) -> Option<Ipv6Addr> {
    let digits = name.strip_suffix(".ip6.arpa")?;
    let mut bits = 0_u128;
    let mut count = 0;
    for digit in digits.rsplit('.') {
        bits = bits << 4 | u128::from_str_radix(digit, 16).ok().filter(|_| digit.len() == 1)?;
        count += 1;
    }
    (count == 32).then(|| Ipv6Addr::from_bits(bits))
}

fn reverse4(name: &str) -> Option<Ipv4Addr> {
    let digits = name.strip_suffix(".in-addr.arpa")?;
    let mut octets = [0; 4];
    let mut parts = digits.split('.');
    for octet in octets.iter_mut().rev() {
        *octet = parts.next()?.parse().ok()?;
    }
    parts.next().is_none().then(|| octets.into())
}

fn header(message: &[u8], code: Code) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(PLAIN_UDP);
    bytes.extend(&message[..2]);
    // An answer; recursion desired as the client said it; recursion available.
    bytes.extend([0x80 | message[2] & 0x79, 0x80 | code as u8]);
    bytes.extend([0; 8]);
    bytes
}

fn append(bytes: &mut Vec<u8>, record: &Record, ttl: u32) {
    let (kind, data) = match record {
        Record::Address(address) => (A, address.octets().to_vec()),
        Record::Address6(address) => (AAAA, address.octets().to_vec()),
        Record::Pointer(name) => {
            let mut data: Vec<u8> = Vec::with_capacity(name.len() + 2);
            for label in name.split('.') {
                let label = &label.as_bytes()[..label.len().min(63)];
                data.push(u8::try_from(label.len()).unwrap_or(63));
                data.extend(label);
            }
            data.push(0);
            (PTR, data)
        }
    };
    // The name is that of the question, which always begins behind the header.
    bytes.extend([0xc0, 0x0c]);
    bytes.extend(kind.to_be_bytes());
    bytes.extend(IN.to_be_bytes());
    bytes.extend(ttl.to_be_bytes());
    bytes.extend(u16::try_from(data.len()).unwrap_or(0).to_be_bytes());
    bytes.extend(data);
}

/// The name at `at` and where it ends. A question has nothing before it to point to.
fn name(message: &[u8], mut at: usize) -> Option<(String, usize)> {
    const LONGEST: usize = 255;
    let start = at;
    let mut text = String::new();
    loop {
        let length = usize::from(*message.get(at)?);
        at += 1;
        if length == 0 {
            return Some((text, at));
        }
        if length > 63 || at + length - start >= LONGEST {
            return None;
        }
        if !text.is_empty() {
            text.push('.');
        }
        for &byte in message.get(at..at + length)? {
            match byte {
                b'.' | b'\\' => text.extend(['\\', char::from(byte)]),
                0x21..=0x7e => text.push(char::from(byte.to_ascii_lowercase())),
                _ => text.push_str(&format!("\\{byte:03}")),
            }
        }
        at += length;
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use simple_dns::{CLASS, Name, Packet, PacketFlag, QCLASS, QTYPE, RCODE, TYPE, rdata::RData};

    use super::*;

    fn query(name: &str, kind: TYPE) -> Vec<u8> {
        let mut packet = Packet::new_query(0x1234);
        packet.set_flags(PacketFlag::RECURSION_DESIRED);
        packet.questions.push(simple_dns::Question::new(
            Name::new_unchecked(name),
            QTYPE::TYPE(kind),
            QCLASS::CLASS(CLASS::IN),
            false,
        ));
        packet.build_bytes_vec().unwrap()
    }

    #[test]
    fn a_question_is_read_whatever_its_case() {
        let question = question(&query("Web.Example", TYPE::A)).unwrap();
        assert_eq!((question.name.as_str(), question.kind, question.class), ("web.example", A, IN));
        assert_eq!(question.udp, 512);
    }

    #[test]
    fn an_answer_is_what_another_reader_expects() {
        let message = query("WEB", TYPE::A);
        let asked = question(&message).unwrap();
        let addresses = [Ipv4Addr::new(10, 0, 0, 2), Ipv4Addr::new(10, 0, 0, 3)].map(Record::Address);
        let bytes = reply(&message, &asked, Code::NoError, &addresses, 5, 512);
        let packet = Packet::parse(&bytes).unwrap();
        assert_eq!((packet.id(), packet.rcode()), (0x1234, RCODE::NoError));
        assert!(packet.has_flags(PacketFlag::RESPONSE | PacketFlag::RECURSION_DESIRED));
        assert_eq!(packet.questions[0].qname.to_string(), "WEB");
        let found: Vec<_> = packet.answers.iter().map(|r| (r.name.to_string(), r.ttl, &r.rdata)).collect();
        assert_eq!(found.len(), 2);
        assert!(matches!(found[1], (ref name, 5, RData::A(a)) if name == "WEB" && a.address == 0x0a00_0003));
        assert!(answers(&bytes, &message, &asked));
    }

    #[test]
    fn a_pointer_is_what_another_reader_expects() {
        let message = query("2.0.0.10.in-addr.arpa", TYPE::PTR);
        let asked = question(&message).unwrap();
        assert_eq!(reverse(&asked.name), Some(Ipv4Addr::new(10, 0, 0, 2).into()));
        let six = format!("1.{}0.0.d.f.ip6.arpa", "0.".repeat(27));
        assert_eq!(reverse(&six), Some("fd00::1".parse().unwrap()));
        assert_eq!(reverse(&six[2..]), None);
        let records = [Record::Pointer("demo-web-1.demo_default".to_owned())];
        let bytes = reply(&message, &asked, Code::NoError, &records, 5, 512);
        let packet = Packet::parse(&bytes).unwrap();
        assert!(
            matches!(&packet.answers[0].rdata, RData::PTR(name) if name.to_string() == "demo-web-1.demo_default")
        );
    }

    #[test]
    fn what_does_not_fit_is_cut_and_says_so() {
        let plain = query("web", TYPE::A);
        let mut packet = Packet::parse(&plain).unwrap();
        *packet.opt_mut() =
            Some(simple_dns::rdata::OPT { opt_codes: vec![], udp_packet_size: 1000, version: 0 });
        let message = packet.build_bytes_vec().unwrap();
        let asked = question(&message).unwrap();
        assert_eq!(asked.udp, 1000);
        let many: Vec<Record> = (0..100).map(|n| Record::Address(Ipv4Addr::from_bits(n))).collect();
        let bytes = reply(&message, &asked, Code::NoError, &many, 5, asked.udp);
        assert!(bytes.len() <= 1000 && is_truncated(&bytes));
        let packet = Packet::parse(&bytes).unwrap();
        assert!(packet.opt().is_some() && packet.answers.len() > 50);
        let whole = reply(&message, &asked, Code::NoError, &many, 5, usize::from(u16::MAX));
        assert!(!is_truncated(&whole));
        assert_eq!(Packet::parse(&whole).unwrap().answers.len(), 100);
    }

    #[test]
    fn a_dot_inside_a_label_is_no_separator() {
        let mut message = query("x", TYPE::A);
        message.splice(12..14, *b"\x04a.\xffB");
        assert_eq!(question(&message).unwrap().name, "a\\.\\255b");
    }

    #[test]
    fn what_is_no_query_is_refused_or_left_alone() {
        let message = query("web", TYPE::A);
        assert_eq!(question(&message[..11]), Err(Malformed::Silence));
        let with = |at: usize, value: u8| {
            let mut message = message.clone();
            message[at] = value;
            question(&message)
        };
        assert_eq!(with(2, 0x80), Err(Malformed::Silence));
        assert_eq!(with(2, 0x10), Err(Malformed::Answer(Code::NotImplemented)));
        assert_eq!(with(5, 2), Err(Malformed::Answer(Code::FormatError)));
        assert_eq!(with(12, 0xc0), Err(Malformed::Answer(Code::FormatError)));
        assert_eq!(with(12, 60), Err(Malformed::Answer(Code::FormatError)));
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(bytes in prop::collection::vec(any::<u8>(), 0..600)) {
            match question(&bytes) {
                Ok(asked) => {
                    let bytes = reply(&bytes, &asked, Code::NoError, &[Record::Pointer("a.b".to_owned())], 1, 512);
                    prop_assert!(bytes.len() >= HEADER);
                }
                Err(Malformed::Answer(code)) => prop_assert!(refusal(&bytes, code).len() == HEADER),
                Err(Malformed::Silence) => {}
            }
        }

        /// Mutations of a good query reach deeper than noise.
        #[test]
        fn no_damage_makes_it_panic(at in 0_usize..33, value: u8, cut in 0_usize..34) {
            let mut bytes = query("web.demo_default", TYPE::AAAA);
            if let Some(byte) = bytes.get_mut(at) { *byte = value; }
            bytes.truncate(cut);
            if let Ok(asked) = question(&bytes) {
                let reply = reply(&bytes, &asked, Code::NoSuchName, &[], 1, 512);
                prop_assert!(reply.len() <= bytes.len() + 11);
            }
        }

        #[test]
        fn reverse_names_of_any_text_are_safe(text in "\\PC{0,40}") {
            let _ = reverse(&text);
            let _ = reverse(&format!("{text}.in-addr.arpa"));
            let _ = reverse(&format!("{text}.ip6.arpa"));
        }
    }
}
