//! A document as the text it is, and where in it each element stands. It never writes, and never knows what an element
//! is for.
//!
//! What it accepts is well-formed (XML 1.0, fifth edition) and has no document type: quick-xml tells markup from text
//! and pairs tags; what it lets through and libvirt's parser does not (attributes, names, references, what is outside
//! the root) is looked at here. Prefixes need no declaration, as KubeVirt forgets that of `qemu:`.

use std::borrow::Cow;
use std::fmt;
use std::ops::Range;

use quick_xml::Reader;
use quick_xml::escape::unescape;
use quick_xml::events::Event;

/// Bytes of a document. A domain with a hundred disks has a tenth of it.
pub const LENGTH_MAX: usize = 1 << 20;
/// Elements around an element, itself included. A domain has about eight.
pub const DEPTH_MAX: usize = 64;
/// Of one element. libvirt knows none with twenty.
pub const ATTRIBUTES_MAX: usize = 128;

/// Where in a document; both count from 1, columns in characters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place {
    pub line: usize,
    pub column: usize,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "line {}, column {}", self.line, self.column)
    }
}

/// What a document must not have.
#[derive(Debug, thiserror::Error)]
pub enum Fault {
    #[error(transparent)]
    Syntax(#[from] quick_xml::Error),
    #[error("character U+{0:04X} is not allowed in XML")]
    Character(u32),
    #[error("`{0}` is not a name")]
    Name(String),
    #[error("an attribute must be name=\"value\", after white space, without `<` in it")]
    Attribute,
    #[error("attribute `{0}` stands there twice")]
    AttributeTwice(String),
    #[error("`{0}` is not one of XML's own entities, nor a character")]
    Reference(String),
    #[error("`]]>` must not stand in text")]
    SectionEnd,
    #[error("a document type is not accepted")]
    Doctype,
    #[error("an XML declaration must be what the document begins with")]
    Declaration,
    #[error("`xml` is not a target of processing instructions")]
    Target,
    #[error("only comments and processing instructions may stand outside the root element")]
    OutsideRoot,
    #[error("a second root element")]
    SecondRoot,
    #[error("no root element")]
    NoRoot,
    #[error("element `{0}` does not end")]
    Open(String),
    #[error("more than {LENGTH_MAX} bytes")]
    Length,
    #[error("more than {DEPTH_MAX} elements inside one another")]
    Depth,
    #[error("more than {ATTRIBUTES_MAX} attributes")]
    Attributes,
}

/// Not a document that libvirt would read.
#[derive(Debug, thiserror::Error)]
#[error("{at}: {fault}")]
pub struct NotWellFormed {
    pub at: Place,
    pub fault: Fault,
}

/// Text that was read, and its elements in the order of their start tags.
#[derive(Debug)]
pub(super) struct Document<'a> {
    pub(super) text: &'a str,
    elements: Vec<Element>,
}

/// Places are bytes from the start of the text.
#[derive(Debug, Clone)]
pub(super) struct Element {
    index: usize,
    /// The element that follows once all inside this one are passed.
    next: usize,
    /// The start tag, from `<` to behind `>`.
    pub(super) tag: Range<usize>,
    name_len: usize,
    /// From the start tag's `<` to behind the last `>`.
    pub(super) span: Range<usize>,
    /// Between its tags; empty, behind it, if it has only one.
    pub(super) content: Range<usize>,
    /// `<name/>`
    pub(super) closes_itself: bool,
}

/// `name="value"`
#[derive(Debug, Clone)]
pub(super) struct Attribute<'a> {
    pub(super) name: &'a str,
    /// Between the quotes, as it is written.
    pub(super) value: Range<usize>,
    pub(super) quote: char,
}

impl<'a> Document<'a> {
    pub(super) fn parse(text: &'a str) -> Result<Self, NotWellFormed> {
        let misfit = |(at, fault)| NotWellFormed { at: place(text, at), fault };
        if text.len() > LENGTH_MAX {
            return Err(misfit((LENGTH_MAX, Fault::Length)));
        }
        if let Some((at, c)) = text.char_indices().find(|(_, c)| !is_allowed(*c)) {
            return Err(misfit((at, Fault::Character(c.into()))));
        }
        let elements = Scan::new(text).run().map_err(misfit)?;
        Ok(Self { text, elements })
    }

    pub(super) fn root(&self) -> Option<&Element> {
        self.elements.first()
    }

    pub(super) fn name(&self, element: &Element) -> &'a str {
        let start = element.tag.start + 1;
        self.slice(&(start..start + element.name_len))
    }

    pub(super) fn slice(&self, range: &Range<usize>) -> &'a str {
        self.text.get(range.clone()).unwrap_or_default()
    }

    pub(super) fn place(&self, element: &Element) -> Place {
        place(self.text, element.span.start)
    }

    pub(super) fn children(&self, element: &Element) -> impl Iterator<Item = &Element> {
        let mut at = element.index + 1;
        let end = element.next;
        std::iter::from_fn(move || {
            let child = if at < end { self.elements.get(at) } else { None }?;
            at = child.next;
            Some(child)
        })
    }

    /// Children of that name that libvirt would see under it: with a namespace of their own they are strangers.
    pub(super) fn named<'d>(&'d self, element: &Element, name: &'d str) -> impl Iterator<Item = &'d Element> {
        self.children(element).filter(move |child| self.is(child, name))
    }

    pub(super) fn is(&self, element: &Element, name: &str) -> bool {
        // An empty one takes a namespace away.
        self.name(element) == name
            && self.value(element, "xmlns").is_none_or(|namespace| namespace.is_empty())
    }

    pub(super) fn attributes(&self, element: &Element) -> impl Iterator<Item = Attribute<'a>> + use<'a> {
        let inside = inside(self.text, &element.tag);
        let inside = inside.start + element.name_len..inside.end;
        Attributes { text: self.text, rest: inside }.map_while(Result::ok)
    }

    pub(super) fn attribute(&self, element: &Element, name: &str) -> Option<Attribute<'a>> {
        self.attributes(element).find(|attribute| attribute.name == name)
    }

    /// An attribute's value, references resolved.
    pub(super) fn value(&self, element: &Element, name: &str) -> Option<Cow<'a, str>> {
        self.attribute(element, name).map(|attribute| self.text_of(&attribute))
    }

    pub(super) fn text_of(&self, attribute: &Attribute<'a>) -> Cow<'a, str> {
        let raw = self.slice(&attribute.value);
        unescape(raw).unwrap_or(Cow::Borrowed(raw))
    }

    /// The line break and the indentation right before an element, if it begins its line.
    pub(super) fn lead(&self, element: &Element) -> Option<&'a str> {
        let before = self.slice(&(0..element.span.start));
        let line = before.trim_end_matches([' ', '\t']);
        let broken = line.strip_suffix('\n')?;
        let broken = broken.strip_suffix('\r').unwrap_or(broken);
        before.get(broken.len()..)
    }
}

/// What stands between a tag's brackets, without the slash of one that closes itself.
fn inside(text: &str, tag: &Range<usize>) -> Range<usize> {
    let closes_itself = text.get(tag.clone()).is_some_and(|tag| tag.ends_with("/>"));
    tag.start + 1..tag.end - if closes_itself { 2 } else { 1 }
}

/// Attributes from behind an element's name to the end of its tag.
#[derive(Debug)]
struct Attributes<'a> {
    text: &'a str,
    rest: Range<usize>,
}

impl<'a> Iterator for Attributes<'a> {
    type Item = Result<Attribute<'a>, Misfit>;

    fn next(&mut self) -> Option<Self::Item> {
        let rest = self.text.get(self.rest.clone())?;
        let trimmed = rest.trim_start_matches(WHITE);
        if trimmed.is_empty() {
            return None;
        }
        let start = self.rest.end - trimmed.len();
        if trimmed.len() == rest.len() {
            self.rest.start = self.rest.end;
            return Some(Err((start, Fault::Attribute)));
        }
        let read = attribute(self.text, start, trimmed);
        self.rest.start = read.as_ref().map_or(self.rest.end, |attribute| attribute.value.end + 1);
        Some(read)
    }
}

/// Reads the attribute that a text begins with, which is at `start` of the whole one.
fn attribute<'a>(text: &str, start: usize, attribute: &'a str) -> Result<Attribute<'a>, Misfit> {
    let malformed = || (start, Fault::Attribute);
    let (name, rest) = attribute.split_once('=').ok_or_else(malformed)?;
    let name = name.trim_end_matches(WHITE);
    if !is_name(name) {
        return Err((start, Fault::Name(name.to_owned())));
    }
    let rest = rest.trim_start_matches(WHITE);
    let quote = rest.chars().next().filter(|c| matches!(c, '"' | '\'')).ok_or_else(malformed)?;
    let (raw, _) = rest.get(1..).and_then(|rest| rest.split_once(quote)).ok_or_else(malformed)?;
    if raw.contains('<') {
        return Err(malformed());
    }
    let at = start + (attribute.len() - rest.len()) + 1;
    debug_assert_eq!(text.get(at..at + raw.len()), Some(raw));
    check_references(raw).map_err(|fault| (at, fault))?;
    Ok(Attribute { name, value: at..at + raw.len(), quote })
}

/// A fault and its byte.
type Misfit = (usize, Fault);

/// One pass over a text.
#[derive(Debug)]
struct Scan<'a> {
    text: &'a str,
    /// Bytes before what the reader sees: of a byte order mark.
    skipped: usize,
    elements: Vec<Element>,
    /// Elements that have begun and not ended, by index.
    open: Vec<usize>,
}

impl<'a> Scan<'a> {
    fn new(text: &'a str) -> Self {
        let skipped = if text.starts_with(BYTE_ORDER_MARK) { BYTE_ORDER_MARK.len_utf8() } else { 0 };
        Self { text, skipped, elements: Vec::new(), open: Vec::new() }
    }

    fn run(mut self) -> Result<Vec<Element>, Misfit> {
        let mut reader = Reader::from_str(self.text.get(self.skipped..).unwrap_or_default());
        let config = reader.config_mut();
        config.check_comments = true;
        config.check_end_names = true;
        loop {
            let start = self.position(reader.buffer_position());
            let event = match reader.read_event() {
                Ok(event) => event,
                Err(error) => return Err((self.position(reader.error_position()), error.into())),
            };
            let event_span = start..self.position(reader.buffer_position());
            if matches!(event, Event::Eof) {
                break;
            }
            self.event(&event, event_span)?;
        }
        if let Some(element) = self.open.last().and_then(|index| self.elements.get(*index)) {
            let name = self.slice(&(element.tag.start + 1..element.tag.start + 1 + element.name_len));
            return Err((element.tag.start, Fault::Open(name.to_owned())));
        }
        if self.elements.is_empty() {
            return Err((self.text.len(), Fault::NoRoot));
        }
        Ok(self.elements)
    }

    fn event(&mut self, event: &Event<'_>, span: Range<usize>) -> Result<(), Misfit> {
        let at = span.start;
        let text = self.slice(&span);
        match event {
            Event::Start(_) => self.start(span, false),
            Event::Empty(_) => self.start(span, true),
            Event::End(_) => {
                self.end(span);
                Ok(())
            }
            Event::Text(_) if self.open.is_empty() => {
                let is_white = text.chars().all(|c| WHITE.contains(&c));
                if is_white { Ok(()) } else { Err((at, Fault::OutsideRoot)) }
            }
            Event::Text(_) => match text.find("]]>") {
                Some(offset) => Err((at + offset, Fault::SectionEnd)),
                None => Ok(()),
            },
            Event::CData(_) | Event::GeneralRef(_) if self.open.is_empty() => Err((at, Fault::OutsideRoot)),
            Event::GeneralRef(_) => check_references(text).map_err(|fault| (at, fault)),
            Event::Decl(_) if at == self.skipped => Ok(()),
            Event::Decl(_) => Err((at, Fault::Declaration)),
            Event::PI(_) => check_target(text).map_err(|fault| (at, fault)),
            Event::DocType(_) => Err((at, Fault::Doctype)),
            Event::CData(_) | Event::Comment(_) | Event::Eof => Ok(()),
        }
    }

    fn start(&mut self, tag: Range<usize>, closes_itself: bool) -> Result<(), Misfit> {
        if self.open.is_empty() && !self.elements.is_empty() {
            return Err((tag.start, Fault::SecondRoot));
        }
        if self.open.len() == DEPTH_MAX {
            return Err((tag.start, Fault::Depth));
        }
        let inside = inside(self.text, &tag);
        let name = self.slice(&inside).split(WHITE).next().unwrap_or_default();
        if !is_name(name) {
            return Err((tag.start, Fault::Name(name.to_owned())));
        }
        let mut names = Vec::new();
        for attribute in (Attributes { text: self.text, rest: inside.start + name.len()..inside.end }) {
            let attribute = attribute?;
            if names.contains(&attribute.name) {
                return Err((tag.start, Fault::AttributeTwice(attribute.name.to_owned())));
            }
            if names.len() == ATTRIBUTES_MAX {
                return Err((tag.start, Fault::Attributes));
            }
            names.push(attribute.name);
        }
        let index = self.elements.len();
        self.elements.push(Element {
            index,
            next: index + 1,
            name_len: name.len(),
            span: tag.clone(),
            content: tag.end..tag.end,
            tag,
            closes_itself,
        });
        if !closes_itself {
            self.open.push(index);
        }
        Ok(())
    }

    /// The reader has seen that it is the last element's that is open.
    fn end(&mut self, tag: Range<usize>) {
        let next = self.elements.len();
        if let Some(element) = self.open.pop().and_then(|index| self.elements.get_mut(index)) {
            element.content.end = tag.start;
            element.span.end = tag.end;
            element.next = next;
        }
    }

    fn slice(&self, range: &Range<usize>) -> &'a str {
        self.text.get(range.clone()).unwrap_or_default()
    }

    fn position(&self, position: u64) -> usize {
        usize::try_from(position).unwrap_or(usize::MAX).saturating_add(self.skipped).min(self.text.len())
    }
}

const BYTE_ORDER_MARK: char = '\u{feff}';

/// White space (production 3).
const WHITE: [char; 4] = [' ', '\t', '\n', '\r'];

/// Production 2, `Char`.
fn is_allowed(c: char) -> bool {
    matches!(c, '\t' | '\n' | '\r' | ' '..='\u{d7ff}' | '\u{e000}'..='\u{fffd}' | '\u{10000}'..)
}

/// Productions 4 and 5, `Name`.
fn is_name(name: &str) -> bool {
    let starts = |c: char| {
        matches!(c, ':' | '_' | 'A'..='Z' | 'a'..='z' | '\u{c0}'..='\u{d6}' | '\u{d8}'..='\u{f6}'
            | '\u{f8}'..='\u{2ff}' | '\u{370}'..='\u{37d}' | '\u{37f}'..='\u{1fff}' | '\u{200c}' | '\u{200d}'
            | '\u{2070}'..='\u{218f}' | '\u{2c00}'..='\u{2fef}' | '\u{3001}'..='\u{d7ff}'
            | '\u{f900}'..='\u{fdcf}' | '\u{fdf0}'..='\u{fffd}' | '\u{10000}'..='\u{effff}')
    };
    let continues = |c: char| {
        starts(c)
            || matches!(c, '-' | '.' | '0'..='9' | '\u{b7}' | '\u{300}'..='\u{36f}' | '\u{203f}' | '\u{2040}')
    };
    name.chars().next().is_some_and(starts) && name.chars().all(continues)
}

/// Every `&` begins one of the five entities or a character (productions 66 to 68).
fn check_references(raw: &str) -> Result<(), Fault> {
    for part in raw.split('&').skip(1) {
        let reference = match part.split_once(';') {
            Some((name, _)) => format!("&{name};"),
            None => return Err(Fault::Reference(format!("&{}", part.chars().take(20).collect::<String>()))),
        };
        match unescape(&reference) {
            Ok(resolved) if resolved.chars().all(is_allowed) => {}
            Ok(_) | Err(_) => return Err(Fault::Reference(reference)),
        }
    }
    Ok(())
}

/// Production 17: a name that is not `xml`.
fn check_target(instruction: &str) -> Result<(), Fault> {
    let inside = instruction.strip_prefix("<?").and_then(|rest| rest.strip_suffix("?>")).unwrap_or_default();
    let target = inside.split(WHITE).next().unwrap_or_default();
    if !is_name(target) {
        return Err(Fault::Name(target.to_owned()));
    }
    if target.eq_ignore_ascii_case("xml") { Err(Fault::Target) } else { Ok(()) }
}

fn place(text: &str, at: usize) -> Place {
    // In the middle of a character only where the text is too long.
    let at = (0..=at).rev().find(|at| text.is_char_boundary(*at)).unwrap_or(0);
    let before = text.get(..at).unwrap_or_default();
    let line = before.rsplit('\n').next().unwrap_or_default();
    Place { line: before.matches('\n').count() + 1, column: line.chars().count() + 1 }
}
