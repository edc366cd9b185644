//! PAX records: what stands before an entry because its header has no room for it.
//!
//! Values are binary; the length that begins a record is what ends it.

use std::io;

use super::tarin::{MAX_REGIONS, broken};

/// What the PAX records before an entry say. An empty value takes a record back.
#[derive(Debug, Default)]
pub(super) struct Pax {
    pub(super) path: Option<Vec<u8>>,
    pub(super) link: Option<Vec<u8>>,
    pub(super) size: Option<u64>,
    pub(super) uid: Option<u64>,
    pub(super) gid: Option<u64>,
    pub(super) mtime: Option<(i64, u32)>,
    pub(super) xattrs: Vec<(Vec<u8>, Vec<u8>)>,
    pub(super) sparse_name: Option<Vec<u8>>,
    pub(super) sparse_size: Option<u64>,
    pub(super) sparse_version: Option<(u64, u64)>,
    pub(super) sparse_map: Vec<(u64, u64)>,
}

impl Pax {
    /// Each record is `<length> <key>=<value>\n`, the length counting all of it.
    pub(super) fn parse(mut bytes: &[u8]) -> io::Result<Self> {
        let malformed = || broken("a PAX record is malformed");
        let mut pax = Self::default();
        while !bytes.is_empty() && bytes[0] != 0 {
            let space = bytes.iter().take(20).position(|byte| *byte == b' ').ok_or_else(malformed)?;
            let length = usize::try_from(decimal(&bytes[..space])?).map_err(|_| malformed())?;
            if length <= space + 1 || length > bytes.len() || bytes[length - 1] != b'\n' {
                return Err(malformed());
            }
            let record = &bytes[space + 1..length - 1];
            let equals = record.iter().position(|byte| *byte == b'=').ok_or_else(malformed)?;
            pax.take(&record[..equals], &record[equals + 1..])?;
            bytes = &bytes[length..];
        }
        Ok(pax)
    }

    fn take(&mut self, key: &[u8], value: &[u8]) -> io::Result<()> {
        if let Some(name) = key.strip_prefix(b"SCHILY.xattr.") {
            self.xattrs.retain(|(known, _)| known != name);
            self.xattrs.push((name.to_vec(), value.to_vec()));
            return Ok(());
        }
        let bytes = || (!value.is_empty()).then(|| value.to_vec());
        let count = || (!value.is_empty()).then(|| decimal(value)).transpose();
        match key {
            b"path" => self.path = bytes(),
            b"linkpath" => self.link = bytes(),
            b"size" => self.size = count()?,
            b"uid" => self.uid = count()?,
            b"gid" => self.gid = count()?,
            b"mtime" => self.mtime = (!value.is_empty()).then(|| time(value)).transpose()?,
            b"GNU.sparse.name" => self.sparse_name = bytes(),
            b"GNU.sparse.size" | b"GNU.sparse.realsize" => self.sparse_size = count()?,
            b"GNU.sparse.major" => {
                self.sparse_version = Some((decimal(value)?, self.sparse_version.unwrap_or_default().1));
            }
            b"GNU.sparse.minor" => {
                self.sparse_version = Some((self.sparse_version.unwrap_or_default().0, decimal(value)?));
            }
            b"GNU.sparse.offset" => self.sparse_map.push((decimal(value)?, 0)),
            b"GNU.sparse.numbytes" => {
                let region = self.sparse_map.last_mut().ok_or_else(|| broken("a sparse map is malformed"))?;
                region.1 = decimal(value)?;
            }
            b"GNU.sparse.map" => {
                let numbers =
                    value.split(|byte| *byte == b',').map(decimal).collect::<io::Result<Vec<_>>>()?;
                if numbers.len() % 2 != 0 {
                    return Err(broken("a sparse map is malformed"));
                }
                self.sparse_map = numbers.chunks(2).map(|pair| (pair[0], pair[1])).collect();
            }
            _ => {}
        }
        if self.sparse_map.len() > MAX_REGIONS {
            return Err(broken("a sparse file has more than 100000 regions"));
        }
        Ok(())
    }
}

fn decimal(text: &[u8]) -> io::Result<u64> {
    std::str::from_utf8(text)
        .ok()
        .filter(|text| text.bytes().all(|byte| byte.is_ascii_digit()))
        .and_then(|text| text.parse().ok())
        .ok_or_else(|| broken(format!("`{}` in a PAX record is no number", text.escape_ascii())))
}

/// `-?seconds[.fraction]`.
fn time(text: &[u8]) -> io::Result<(i64, u32)> {
    let wrong = || broken(format!("`{}` in a PAX record is no time", text.escape_ascii()));
    let text = std::str::from_utf8(text).map_err(|_| wrong())?;
    let (seconds, fraction) = text.split_once('.').unwrap_or((text, ""));
    let whole: i64 = seconds.parse().map_err(|_| wrong())?;
    let digits: String = fraction.chars().chain("000000000".chars()).take(9).collect();
    let nanos: u32 = digits.parse().map_err(|_| wrong())?;
    if seconds.starts_with('-') && nanos > 0 {
        return Ok((whole.saturating_sub(1), 1_000_000_000 - nanos));
    }
    Ok((whole, nanos))
}

#[cfg(test)]
mod tests {
    use super::{super::tarout::record, *};

    #[test]
    fn a_pax_value_may_hold_line_feeds_and_be_empty() {
        let records = [
            record(b"SCHILY.xattr.security.x", b"a\nb=c\nd"),
            record(b"SCHILY.xattr.user.e", b""),
            record(b"uid", b"7"),
        ];
        let pax = Pax::parse(&records.concat()).unwrap();
        assert_eq!(
            pax.xattrs,
            [(b"security.x".to_vec(), b"a\nb=c\nd".to_vec()), (b"user.e".to_vec(), Vec::new())]
        );
        assert_eq!(pax.uid, Some(7));
    }

    #[test]
    fn a_malformed_pax_record_is_an_error_and_no_guess() {
        for bad in
            ["9 uid=7\n", "7 uid=7\n", "x uid=7\n", "8 uid=7 ", "8 uid=-\n", "99999999999999999999999 a=b\n"]
        {
            assert!(Pax::parse(bad.as_bytes()).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn times_have_fractions_and_may_be_before_1970() {
        assert_eq!(time(b"1.5").unwrap(), (1, 500_000_000));
        assert_eq!(time(b"-1.25").unwrap(), (-2, 750_000_000));
        assert_eq!(time(b"12").unwrap(), (12, 0));
        assert!(time(b"soon").is_err());
    }
}
