//! Just enough of D-Bus (specification 0.41) to ask systemd for a scope over its private socket: no daemon
//! in between, one call at a time, little endian.

use std::{
    io::{self, Read, Write},
    os::unix::net::UnixStream,
    path::Path,
    time::Duration,
};

/// Longer than systemd takes for anything that it is asked here.
const PATIENCE: Duration = Duration::from_secs(5);
/// An answer that is longer is none of ours.
const LONGEST: usize = 1 << 20;

/// A connection to a manager of systemd.
#[derive(Debug)]
pub struct Connection {
    stream: UnixStream,
    serial: u32,
}

/// The body of a message, and its signature.
#[derive(Debug, Default)]
pub struct Body {
    pub signature: String,
    pub bytes: Vec<u8>,
}

/// A message that came in.
#[derive(Debug)]
pub struct Message {
    kind: u8,
    reply_to: Option<u32>,
    member: Option<String>,
    /// Name of an error.
    error: Option<String>,
    pub body: Vec<u8>,
}

const CALL: u8 = 1;
const RETURN: u8 = 2;
const ERROR: u8 = 3;
const SIGNAL: u8 = 4;

/// What the other side made of a call.
#[derive(Debug)]
pub enum Failure {
    Io(io::Error),
    /// Its name and text.
    Refused {
        name: String,
        text: String,
    },
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

impl Connection {
    /// Says who we are: `uid` as the other side counts.
    pub fn open(socket: &Path, uid: u32) -> io::Result<Self> {
        let mut stream = UnixStream::connect(socket)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        let digits: String = uid.to_string().bytes().map(|digit| format!("{digit:02x}")).collect();
        stream.write_all(format!("\0AUTH EXTERNAL {digits}\r\n").as_bytes())?;
        let answer = line(&mut stream)?;
        if !answer.starts_with("OK") {
            return Err(io::Error::other(format!("systemd does not let us in: {answer}")));
        }
        stream.write_all(b"BEGIN\r\n")?;
        Ok(Self { stream, serial: 0 })
    }

    /// Calls a method of systemd's manager and waits for its answer.
    pub fn call(&mut self, member: &str, body: &Body) -> Result<Message, Failure> {
        self.serial += 1;
        let mut fields = Body::default();
        for (number, kind, value) in [
            (1, "o", "/org/freedesktop/systemd1"),
            (2, "s", "org.freedesktop.systemd1.Manager"),
            (3, "s", member),
            (6, "s", "org.freedesktop.systemd1"),
        ] {
            fields.align(8);
            fields.bytes.push(number);
            fields.text_of_signature(kind);
            fields.text(value);
        }
        fields.align(8);
        fields.bytes.push(8);
        fields.text_of_signature("g");
        fields.text_of_signature(&body.signature);
        let mut message = Body { bytes: vec![b'l', CALL, 0, 1], ..Body::default() };
        message.number(length(&body.bytes)?);
        message.number(self.serial);
        message.number(length(&fields.bytes)?);
        // The array begins at 16, so what is aligned in it is aligned in the message.
        message.bytes.extend(fields.bytes);
        message.align(8);
        message.bytes.extend(&body.bytes);
        self.stream.write_all(&message.bytes)?;
        loop {
            let answer = self.next()?;
            if answer.reply_to != Some(self.serial) {
                continue;
            }
            return match answer.kind {
                RETURN => Ok(answer),
                ERROR => Err(Failure::Refused {
                    text: Reader::new(&answer.body).text().unwrap_or_default(),
                    name: answer.error.unwrap_or_default(),
                }),
                _ => continue,
            };
        }
    }

    /// The next signal of this name.
    pub fn signal(&mut self, member: &str) -> io::Result<Message> {
        loop {
            let message = self.next()?;
            if message.kind == SIGNAL && message.member.as_deref() == Some(member) {
                return Ok(message);
            }
        }
    }

    fn next(&mut self) -> io::Result<Message> {
        let mut head = [0; 16];
        self.stream.read_exact(&mut head)?;
        let number =
            |at: usize| u32::from_le_bytes([head[at], head[at + 1], head[at + 2], head[at + 3]]) as usize;
        let (body, fields) = (number(4), number(12));
        if head[0] != b'l' || body > LONGEST || fields > LONGEST {
            return Err(io::Error::other("systemd said what is not understood"));
        }
        let mut bytes = vec![0; fields.next_multiple_of(8)];
        self.stream.read_exact(&mut bytes)?;
        let mut message =
            Message { kind: head[1], reply_to: None, member: None, error: None, body: vec![0; body] };
        message.read_fields(bytes.get(..fields).unwrap_or_default());
        self.stream.read_exact(&mut message.body)?;
        Ok(message)
    }
}

impl Message {
    fn read_fields(&mut self, bytes: &[u8]) -> Option<()> {
        let mut reader = Reader::new(bytes);
        while reader.at < bytes.len() {
            reader.align(8);
            let field = reader.byte()?;
            match reader.signature()?.as_str() {
                "u" => {
                    let number = reader.number()?;
                    if field == 5 {
                        self.reply_to = Some(number);
                    }
                }
                "g" => drop(reader.signature()?),
                "s" | "o" => {
                    let text = reader.text()?;
                    match field {
                        3 => self.member = Some(text),
                        4 => self.error = Some(text),
                        _ => {}
                    }
                }
                // No other kinds stand in headers.
                _ => return None,
            }
        }
        Some(())
    }
}

fn line(stream: &mut UnixStream) -> io::Result<String> {
    let mut text = Vec::new();
    let mut byte = [0];
    while !text.ends_with(b"\r\n") && text.len() < 512 {
        stream.read_exact(&mut byte)?;
        text.extend(byte);
    }
    Ok(String::from_utf8_lossy(&text).trim_end().to_owned())
}

fn length(bytes: &[u8]) -> io::Result<u32> {
    u32::try_from(bytes.len()).map_err(io::Error::other)
}

impl Body {
    #[must_use]
    pub fn new(signature: &str) -> Self {
        Self { signature: signature.to_owned(), bytes: Vec::new() }
    }

    pub fn align(&mut self, to: usize) {
        self.bytes.resize(self.bytes.len().next_multiple_of(to), 0);
    }

    pub fn number(&mut self, number: u32) {
        self.align(4);
        self.bytes.extend(number.to_le_bytes());
    }

    pub fn text(&mut self, text: &str) {
        self.number(u32::try_from(text.len()).unwrap_or(0));
        self.bytes.extend(text.bytes());
        self.bytes.push(0);
    }

    pub fn text_of_signature(&mut self, text: &str) {
        self.bytes.push(u8::try_from(text.len()).unwrap_or(0));
        self.bytes.extend(text.bytes());
        self.bytes.push(0);
    }

    /// An array; `align` is what its elements are aligned to.
    pub fn array(&mut self, align: usize, fill: impl FnOnce(&mut Self)) {
        self.number(0);
        let at = self.bytes.len();
        self.align(align);
        let first = self.bytes.len();
        fill(self);
        let length = u32::try_from(self.bytes.len() - first).unwrap_or(0).to_le_bytes();
        self.bytes.splice(at - 4..at, length);
    }
}

/// Reads a body from its start.
#[derive(Debug)]
pub struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Reader<'a> {
    #[must_use]
    pub fn new(bytes: &'a [u8]) -> Self {
        Self { bytes, at: 0 }
    }

    fn align(&mut self, to: usize) {
        self.at = self.at.next_multiple_of(to);
    }

    fn byte(&mut self) -> Option<u8> {
        self.at += 1;
        self.bytes.get(self.at - 1).copied()
    }

    pub fn number(&mut self) -> Option<u32> {
        self.align(4);
        let bytes = self.bytes.get(self.at..self.at + 4)?;
        self.at += 4;
        Some(u32::from_le_bytes(bytes.try_into().ok()?))
    }

    pub fn text(&mut self) -> Option<String> {
        let length = usize::try_from(self.number()?).ok()?;
        self.take(length)
    }

    fn signature(&mut self) -> Option<String> {
        let length = usize::from(self.byte()?);
        self.take(length)
    }

    /// Text of this length and the zero behind it.
    fn take(&mut self, length: usize) -> Option<String> {
        let text = self.bytes.get(self.at..self.at.checked_add(length)?)?;
        self.at += length + 1;
        String::from_utf8(text.to_vec()).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_body_is_read_as_it_was_written() {
        let mut body = Body::new("suas");
        body.text("a");
        body.number(7);
        body.array(4, |body| body.text("bc"));
        assert_eq!(body.bytes, b"\x01\0\0\0a\0\0\0\x07\0\0\0\x07\0\0\0\x02\0\0\0bc\0");
        let mut reader = Reader::new(&body.bytes);
        assert_eq!((reader.text().as_deref(), reader.number()), (Some("a"), Some(7)));
        assert_eq!(reader.number(), Some(7), "the length of the array");
        assert_eq!((reader.text().as_deref(), reader.number()), (Some("bc"), None));
    }

    #[test]
    fn the_padding_before_elements_is_not_part_of_an_array() {
        let mut body = Body::new("a(t)");
        body.array(8, |body| body.bytes.extend([1; 8]));
        assert_eq!(body.bytes, [[8, 0, 0, 0, 0, 0, 0, 0], [1; 8]].concat());
    }

    #[test]
    fn a_call_is_answered_over_a_socket() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("private");
        let listener = std::os::unix::net::UnixListener::bind(&path).unwrap();
        let server = std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            assert_eq!(line(&mut stream).unwrap(), "\0AUTH EXTERNAL 31303030");
            stream.write_all(b"OK 0123\r\n").unwrap();
            assert_eq!(line(&mut stream).unwrap(), "BEGIN");
            let mut connection = Connection { stream, serial: 0 };
            let call = connection.next().unwrap();
            assert_eq!((call.kind, call.member.as_deref()), (CALL, Some("Greet")));
            assert_eq!(Reader::new(&call.body).text().as_deref(), Some("you"));
            // An error for serial 1, with a text.
            let mut fields = Body::default();
            fields.bytes.push(4);
            fields.text_of_signature("s");
            fields.text("x.Busy");
            fields.align(8);
            fields.bytes.push(5);
            fields.text_of_signature("u");
            fields.number(1);
            let mut message =
                Body { bytes: vec![b'l', ERROR, 0, 1, 9, 0, 0, 0, 1, 0, 0, 0], ..Body::default() };
            message.number(u32::try_from(fields.bytes.len()).unwrap());
            message.bytes.extend(fields.bytes);
            message.align(8);
            message.text("busy");
            connection.stream.write_all(&message.bytes).unwrap();
        });
        let mut connection = Connection::open(&path, 1000).unwrap();
        let mut body = Body::new("s");
        body.text("you");
        match connection.call("Greet", &body) {
            Err(Failure::Refused { name, text }) => {
                assert_eq!((name.as_str(), text.as_str()), ("x.Busy", "busy"))
            }
            other => panic!("{other:?}"),
        }
        server.join().unwrap();
    }
}
