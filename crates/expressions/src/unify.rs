//! Types that fit each other, with type variables that are found on the way.

use crate::types::Type;

/// What is known of type variables.
#[derive(Debug, Default)]
pub(crate) struct Substitution {
    bound: Vec<Option<Type>>,
    /// The variables bound since the last [`Substitution::mark`], with what they were before.
    trail: Vec<(u32, Option<Type>)>,
}

impl Substitution {
    /// A variable that nothing is known of.
    pub(crate) fn fresh(&mut self) -> Type {
        let number = u32::try_from(self.bound.len()).unwrap_or(u32::MAX);
        self.bound.push(None);
        Type::Variable(number)
    }

    /// A signature's type with its variables, of which there are `count`, made fresh ones that begin at `first`.
    pub(crate) fn instantiate(signature: &Type, first: u32) -> Type {
        match signature {
            Type::Variable(number) => Type::Variable(first + number),
            Type::List(item) => Type::list(Self::instantiate(item, first)),
            Type::Optional(item) => Type::optional(Self::instantiate(item, first)),
            Type::Map(pair) => Type::map(Self::instantiate(&pair.0, first), Self::instantiate(&pair.1, first)),
            Type::Type(Some(inner)) => Type::Type(Some(Self::instantiate(inner, first).into())),
            other => other.clone(),
        }
    }

    /// Makes `count` fresh variables; gives the first one's number.
    pub(crate) fn reserve(&mut self, count: u32) -> u32 {
        let first = u32::try_from(self.bound.len()).unwrap_or(u32::MAX);
        self.bound.resize(self.bound.len() + count as usize, None);
        first
    }

    fn find(&self, number: u32) -> Option<&Type> {
        self.bound.get(number as usize).and_then(Option::as_ref)
    }

    fn bind(&mut self, number: u32, found: Type) {
        if let Some(place) = self.bound.get_mut(number as usize) {
            self.trail.push((number, place.replace(found)));
        }
    }

    fn undo(&mut self) {
        while let Some((number, before)) = self.trail.pop() {
            self.bound[number as usize] = before;
        }
    }

    /// The type with everything that is known put in; with `to_dyn`, what is not known is dynamic.
    pub(crate) fn apply(&self, given: &Type, to_dyn: bool) -> Type {
        match given {
            Type::Variable(number) => match self.find(*number) {
                Some(found) => self.apply(found, to_dyn),
                None if to_dyn => Type::Dyn,
                None => given.clone(),
            },
            Type::List(item) => Type::list(self.apply(item, to_dyn)),
            Type::Optional(item) => Type::optional(self.apply(item, to_dyn)),
            Type::Map(pair) => Type::map(self.apply(&pair.0, to_dyn), self.apply(&pair.1, to_dyn)),
            Type::Type(Some(inner)) => Type::Type(Some(self.apply(inner, to_dyn).into())),
            other => other.clone(),
        }
    }

    /// Whether a value of type `b` may stand where `a` is wanted; what is learned on the way is kept only then.
    pub(crate) fn assignable(&mut self, a: &Type, b: &Type) -> bool {
        self.trail.clear();
        let fits = self.fits(a, b);
        if !fits {
            self.undo();
        }
        fits
    }

    /// [`Substitution::assignable`] for each of two rows of types.
    pub(crate) fn all_assignable(&mut self, given: &[Type], wanted: &[Type]) -> bool {
        self.trail.clear();
        let fits = given.len() == wanted.len() && given.iter().zip(wanted).all(|(a, b)| self.fits(a, b));
        if !fits {
            self.undo();
        }
        fits
    }

    fn fits(&mut self, a: &Type, b: &Type) -> bool {
        if let Type::Variable(number) = b {
            let (valid, known) = self.substitutes(a, *number);
            if valid || known {
                return valid;
            }
        }
        if let Type::Variable(number) = a {
            return self.substitutes(b, *number).0;
        }
        match (a, b) {
            _ if a.is_dyn_or_error() || b.is_dyn_or_error() => true,
            (Type::Null, other) | (other, Type::Null) => matches!(
                other,
                Type::Null | Type::Optional(_) | Type::Opaque(_) | Type::Object(_) | Type::Duration | Type::Timestamp
            ),
            (Type::List(a), Type::List(b)) | (Type::Optional(a), Type::Optional(b)) => self.fits(a, b),
            (Type::Map(a), Type::Map(b)) => self.fits(&a.0, &b.0) && self.fits(&a.1, &b.1),
            (Type::Type(_), Type::Type(_)) => true,
            _ => a.is_exactly(b),
        }
    }

    /// Whether variable `number` may stand for `other`, and whether something was known of it.
    fn substitutes(&mut self, other: &Type, number: u32) -> (bool, bool) {
        if matches!(other, Type::Variable(same) if *same == number) {
            return (true, true);
        }
        if let Some(found) = self.find(number).cloned() {
            if other.is_exactly(&found) {
                return (true, true);
            }
            if self.fits(other, &found) {
                let general = if less_specific(other, &found) { other.clone() } else { found };
                if !self.occurs(number, &general) {
                    self.bind(number, general);
                }
                return (true, true);
            }
            return (false, true);
        }
        if self.occurs(number, other) {
            return (false, false);
        }
        self.bind(number, other.clone());
        (true, false)
    }

    fn occurs(&self, number: u32, within: &Type) -> bool {
        match within {
            Type::Variable(other) => {
                *other == number || self.find(*other).is_some_and(|found| self.occurs(number, found))
            }
            Type::List(inner) | Type::Optional(inner) | Type::Type(Some(inner)) => self.occurs(number, inner),
            Type::Map(pair) => self.occurs(number, &pair.0) || self.occurs(number, &pair.1),
            _ => false,
        }
    }
}

/// Whether `a` says no more than `b`, of two types that fit each other.
pub(crate) fn less_specific(a: &Type, b: &Type) -> bool {
    match (a, b) {
        (Type::Dyn | Type::Variable(_), _) => true,
        (_, Type::Dyn | Type::Variable(_)) => false,
        (Type::List(a), Type::List(b)) | (Type::Optional(a), Type::Optional(b)) => less_specific(a, b),
        (Type::Map(a), Type::Map(b)) => less_specific(&a.0, &b.0) && less_specific(&a.1, &b.1),
        (Type::Type(_), Type::Type(_)) => true,
        _ => a.is_exactly(b),
    }
}
