//! The protobuf side of the table: the number of each field, and the field of each number.
//!
//! Some structs that JSON shows inline are messages of their own on the wire. They are no types here; a field remembers
//! the way to it instead, as a [`Way`] through such messages.

use std::ops::Range;

use super::SchemaRef;

/// A way from a message through messages that JSON has inline. [`HERE`] leads nowhere.
pub(crate) type Way = u16;

/// The message itself.
pub(crate) const HERE: Way = 0;

/// A field's place on the wire.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Number {
    /// The message in which the field stands.
    pub(crate) way: Way,
    /// The field's number there; zero for fields that have none.
    pub(crate) number: u16,
    /// Whether the field is a pointer, whose zero is not the same as its absence.
    pub(crate) pointer: bool,
}

/// The numbers of all fields of [`super::Types`], in the same order; empty where there is no protobuf form.
#[derive(Debug, Default)]
pub(super) struct Numbers {
    of_fields: Vec<Number>,
    /// For each type's range of fields, the same fields in the order of way and number.
    sorted: Vec<u32>,
    /// Each way's last step: the way before it and the number there. The first stands for [`HERE`].
    ways: Vec<(Way, u16)>,
}

impl Numbers {
    /// Adds the next field's number as the build script writes it: `7`, `2.1`, `3*`.
    pub(super) fn push(&mut self, text: &str) {
        let (text, pointer) = text.strip_suffix('*').map_or((text, false), |text| (text, true));
        let (way, number) = text.rsplit_once('.').unwrap_or(("", text));
        let parse = |text: &str| text.parse::<u16>().unwrap_or_default();
        let mut at = HERE;
        for step in way.split('.').filter(|step| !step.is_empty()) {
            at = self.way(at, parse(step));
        }
        self.of_fields.push(Number { way: at, number: parse(number), pointer });
    }

    fn way(&mut self, from: Way, number: u16) -> Way {
        if self.ways.is_empty() {
            self.ways.push((HERE, 0));
        }
        let known = self.ways.iter().skip(1).position(|step| *step == (from, number));
        let index = known.map_or(self.ways.len(), |known| known + 1);
        if known.is_none() {
            self.ways.push((from, number));
        }
        u16::try_from(index).expect("the build script's facts know a handful of inline structs")
    }

    /// Prepares the search by number within each type's range of fields.
    pub(super) fn sort(&mut self, ranges: impl Iterator<Item = Range<u32>>) {
        self.of_fields.shrink_to_fit();
        self.sorted = (0..self.of_fields.len()).map(|index| u32::try_from(index).unwrap_or_default()).collect();
        for range in ranges {
            let of_fields = &self.of_fields;
            self.sorted[range.start as usize..range.end as usize].sort_unstable_by_key(|&field| {
                let number = of_fields[field as usize];
                (number.way, number.number)
            });
        }
    }

    fn steps_to(&self, way: Way) -> impl Iterator<Item = Way> {
        std::iter::successors(Some(way), |&way| (way != HERE).then(|| self.ways[way as usize].0))
    }
}

impl<'a> SchemaRef<'a> {
    /// Whether the type has a protobuf form.
    pub fn has_numbers(self) -> bool {
        let (start, end) = self.field_range();
        self.types
            .numbers
            .of_fields
            .get(start as usize..end as usize)
            .is_some_and(|numbers| numbers.iter().any(|number| number.number > 0))
    }

    /// The field's place on the wire.
    pub(crate) fn number(self) -> Option<Number> {
        self.types.numbers.of_fields.get(self.field as usize).copied().filter(|number| number.number > 0)
    }

    /// The field with a number.
    pub(crate) fn numbered(self, way: Way, number: u64) -> Option<(&'a str, SchemaRef<'a>)> {
        let (start, end) = self.field_range();
        let numbers = &self.types.numbers;
        let sorted = numbers.sorted.get(start as usize..end as usize)?;
        let wanted = (way, u16::try_from(number).ok()?);
        let key = |field: u32| (numbers.of_fields[field as usize].way, numbers.of_fields[field as usize].number);
        let field = sorted[sorted.binary_search_by(|&field| key(field).cmp(&wanted)).ok()?];
        let name = &self.types.names[self.types.fields[field as usize].name as usize];
        Some((name, self.field_ref(field)))
    }

    /// The way on from `way` through the inline message with a number, if this type has one there.
    pub(crate) fn inline(self, way: Way, number: u64) -> Option<Way> {
        let (start, end) = self.field_range();
        let numbers = &self.types.numbers;
        let fields = numbers.of_fields.get(start as usize..end as usize)?;
        fields.iter().find_map(|field| {
            numbers.steps_to(field.way).find(|&step| {
                step != HERE
                    && numbers.ways[step as usize].0 == way
                    && u64::from(numbers.ways[step as usize].1) == number
            })
        })
    }

    /// Where an inline message stands: the way to the message around it, and its number there.
    pub(crate) fn step(self, way: Way) -> (Way, u16) {
        self.types.numbers.ways[way as usize]
    }

    /// Whether a value of any JSON is carried as bytes; the other kind of unstructured value is an empty message.
    pub(crate) fn is_raw(self) -> bool {
        !self.type_name().is_some_and(|name| name.ends_with(".CustomResourceSubresourceStatus"))
    }
}
