//! New text for a document: elements written so that they look as if they had always been there, and the places they go
//! to. It never knows what an element is for.

use std::borrow::Cow;
use std::ops::Range;

use super::document::{Document, Element};

/// How a document is written.
#[derive(Debug, Clone, Copy)]
pub(super) struct Style<'a> {
    /// What one level adds to the indentation.
    unit: &'a str,
    quote: char,
}

impl<'a> Style<'a> {
    /// As the root's attributes are quoted, and as `level`, a child of the root, is indented.
    ///
    /// Both stay what they are whatever is written here, so that a second pass finds the same style.
    pub(super) fn of(document: &Document<'a>, root: &Element, level: &Element) -> Self {
        let quote = document.attributes(root).next().map_or('"', |attribute| attribute.quote);
        let outside = document.lead(root).map_or("", indentation);
        let inside = document.lead(level).map_or("", indentation);
        Self { unit: inside.strip_prefix(outside).unwrap_or(inside), quote }
    }
}

fn indentation(lead: &str) -> &str {
    lead.trim_start_matches(['\r', '\n'])
}

/// An element to be written.
#[derive(Debug, Clone)]
pub(super) struct New<'a> {
    name: &'static str,
    attributes: Vec<(&'a str, Cow<'a, str>)>,
    children: Vec<Part<'a>>,
}

#[derive(Debug, Clone)]
enum Part<'a> {
    New(New<'a>),
    /// Text that stays as it was.
    Kept(&'a str),
}

impl<'a> New<'a> {
    pub(super) fn element(name: &'static str) -> Self {
        Self { name, attributes: Vec::new(), children: Vec::new() }
    }

    pub(super) fn with(mut self, name: &'a str, value: impl Into<Cow<'a, str>>) -> Self {
        self.attributes.push((name, value.into()));
        self
    }

    pub(super) fn child(mut self, child: Self) -> Self {
        self.children.push(Part::New(child));
        self
    }

    pub(super) fn kept(mut self, text: &'a str) -> Self {
        self.children.push(Part::Kept(text));
        self
    }

    /// On lines of its own if there is a lead: the line break and the indentation before it.
    pub(super) fn write(&self, to: &mut String, lead: Option<&str>, style: Style<'_>) {
        to.push('<');
        to.push_str(self.name);
        for (name, value) in &self.attributes {
            to.push(' ');
            to.push_str(name);
            to.push('=');
            to.push(style.quote);
            escape(to, value);
            to.push(style.quote);
        }
        if self.children.is_empty() {
            to.push_str("/>");
            return;
        }
        to.push('>');
        let inner = lead.map(|lead| format!("{lead}{}", style.unit));
        for child in &self.children {
            to.push_str(inner.as_deref().unwrap_or_default());
            match child {
                Part::New(child) => child.write(to, inner.as_deref(), style),
                Part::Kept(text) => to.push_str(text),
            }
        }
        to.push_str(lead.unwrap_or_default());
        to.push_str("</");
        to.push_str(self.name);
        to.push('>');
    }
}

/// An attribute's value, so that it reads back as it is.
pub(super) fn escape(to: &mut String, value: &str) {
    for c in value.chars() {
        match c {
            '&' => to.push_str("&amp;"),
            '<' => to.push_str("&lt;"),
            '>' => to.push_str("&gt;"),
            '"' => to.push_str("&quot;"),
            '\'' => to.push_str("&apos;"),
            '\t' => to.push_str("&#9;"),
            '\n' => to.push_str("&#10;"),
            '\r' => to.push_str("&#13;"),
            c => to.push(c),
        }
    }
}

/// What is to be done to a document; no two places overlap.
#[derive(Debug)]
pub(super) struct Edits<'d, 'a> {
    document: &'d Document<'a>,
    style: Style<'a>,
    edits: Vec<(Range<usize>, String)>,
}

impl<'d, 'a> Edits<'d, 'a> {
    pub(super) fn new(document: &'d Document<'a>, style: Style<'a>) -> Self {
        Self { document, style, edits: Vec::new() }
    }

    /// An element in place of another.
    pub(super) fn replace(&mut self, old: &Element, new: &New<'_>) {
        let mut text = String::new();
        new.write(&mut text, self.document.lead(old), self.style);
        self.edits.push((old.span.clone(), text));
    }

    /// Elements right behind one.
    pub(super) fn insert_after(&mut self, sibling: &Element, new: &[New<'_>]) {
        let lead = self.document.lead(sibling);
        self.insert(sibling.span.end..sibling.span.end, "", new, lead, "");
    }

    /// Elements as the first of a parent.
    pub(super) fn insert_first(&mut self, parent: &Element, new: &[New<'_>]) {
        let outer = self.document.lead(parent);
        let lead = match self.document.children(parent).next() {
            Some(sibling) => self.document.lead(sibling).map(Cow::Borrowed),
            None => outer.map(|outer| Cow::Owned(format!("{outer}{}", self.style.unit))),
        };
        let lead = lead.as_deref();
        let outer = outer.unwrap_or_default();
        if parent.closes_itself {
            let tag = self.document.slice(&parent.tag);
            let kept = tag.trim_end_matches('>').trim_end_matches('/').trim_end();
            let end = format!("{outer}</{}>", self.document.name(parent));
            self.insert(parent.tag.start + kept.len()..parent.tag.end, ">", new, lead, &end);
        } else {
            let end = if parent.content.is_empty() { outer } else { "" };
            self.insert(parent.content.start..parent.content.start, "", new, lead, end);
        }
    }

    /// Elements as the last of a parent's.
    pub(super) fn insert_last(&mut self, parent: &Element, new: &[New<'_>]) {
        match self.document.children(parent).last() {
            Some(sibling) => self.insert_after(sibling, new),
            None => self.insert_first(parent, new),
        }
    }

    /// A value for an attribute that an element has or has not.
    pub(super) fn set(&mut self, element: &Element, name: &str, value: &str) {
        let mut text = String::new();
        let range = match self.document.attribute(element, name) {
            Some(attribute) => attribute.value,
            None => {
                let tag = self.document.slice(&element.tag);
                let kept = tag.trim_end_matches('>').trim_end_matches('/').trim_end();
                let at = element.tag.start + kept.len();
                text = format!(" {name}={}", self.style.quote);
                at..at
            }
        };
        let is_new = !text.is_empty();
        escape(&mut text, value);
        if is_new {
            text.push(self.style.quote);
        }
        self.edits.push((range, text));
    }

    fn insert(&mut self, at: Range<usize>, begin: &str, new: &[New<'_>], lead: Option<&str>, end: &str) {
        if new.is_empty() {
            return;
        }
        let mut text = begin.to_owned();
        for element in new {
            text.push_str(lead.unwrap_or_default());
            element.write(&mut text, lead, self.style);
        }
        text.push_str(end);
        self.edits.push((at, text));
    }

    /// The document with all of it done.
    pub(super) fn apply(mut self) -> String {
        self.edits.sort_by_key(|(range, _)| (range.start, range.end));
        let mut result = String::with_capacity(self.document.text.len() + 1024);
        let mut done = 0;
        for (range, text) in &self.edits {
            debug_assert!(done <= range.start, "two edits of one place");
            result.push_str(self.document.slice(&(done..range.start)));
            result.push_str(text);
            done = range.end;
        }
        result.push_str(self.document.slice(&(done..self.document.text.len())));
        result
    }
}
