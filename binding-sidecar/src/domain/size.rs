//! How much memory a guest has.

use super::document::Document;
use super::{DomainError, at_most_one};

/// Bytes of memory of a domain's guest, with what may be plugged in later. None if the domain does not say, or says it in
/// a unit that libvirt does not know.
///
/// # Errors
/// If the text is not well-formed, or says it twice.
pub fn memory_bytes(document: &str) -> Result<Option<u64>, DomainError> {
    let document = Document::parse(document)?;
    let Some(domain) = document.root() else { return Ok(None) };
    for name in ["maxMemory", "memory"] {
        if let Some(element) = at_most_one(&document, domain, name)? {
            let unit = document.value(element, "unit");
            let amount = document.slice(&element.content).trim().parse::<u64>().ok();
            let factor = factor(unit.as_deref().unwrap_or("KiB"));
            return Ok(amount.zip(factor).map(|(amount, factor)| amount.saturating_mul(factor)));
        }
    }
    Ok(None)
}

/// Units of libvirt's "scaled integers": powers of 1000 with `B`, else of 1024.
fn factor(unit: &str) -> Option<u64> {
    let (letter, base) = match unit {
        "b" | "bytes" => return Some(1),
        unit => match (unit.strip_suffix("iB"), unit.strip_suffix('B')) {
            (Some(letter), _) => (letter, 1024_u64),
            (None, Some(letter)) => (letter, 1000),
            (None, None) => (unit, 1024),
        },
    };
    let power = ["k", "m", "g", "t", "p", "e"].iter().position(|known| letter.eq_ignore_ascii_case(known))?;
    base.checked_pow(u32::try_from(power).ok()? + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_in_every_unit() {
        let rows: [(&str, Option<u64>); 9] = [
            ("<memory unit='b'>1073741824</memory>", Some(1 << 30)),
            ("<memory>1048576</memory>", Some(1 << 30)),
            ("<memory unit=\"MiB\"> 512 </memory>", Some(512 << 20)),
            ("<memory unit='GB'>2</memory>", Some(2_000_000_000)),
            ("<memory unit='G'>2</memory>", Some(2 << 30)),
            ("<memory unit='EiB'>99</memory>", Some(u64::MAX)),
            ("<memory unit='MiB'>512</memory><maxMemory unit='MiB'>4096</maxMemory>", Some(4 << 30)),
            ("<memory unit='acres'>4</memory>", None),
            ("", None),
        ];
        for (memory, bytes) in rows {
            let document = format!("<domain>{memory}<devices/></domain>");
            assert_eq!(memory_bytes(&document).unwrap(), bytes, "{memory}");
        }
    }
}
