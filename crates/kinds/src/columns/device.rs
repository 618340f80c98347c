//! Resource claims and slices, and the addresses of services.

use super::cell::{age, count, name, text};
use super::{AGE, Column, NAME, Table};

pub(super) const CLAIMS: Table = (
    &[NAME, Column::string("State", "A summary of the current state (allocated, pending, reserved, etc.)."), AGE],
    |object, now| {
        let deleted = !text(object, "/metadata/deletionTimestamp").is_empty();
        let allocated = object.pointer("/status/allocation").is_some_and(|allocation| !allocation.is_null());
        let states = [
            ("deleted", deleted),
            ("pending", !allocated && !deleted),
            ("allocated", allocated),
            ("reserved", allocated && count(object, "/status/reservedFor") > 0),
        ];
        let states: Vec<&str> = states.into_iter().filter(|(_, is)| *is).map(|(state, _)| state).collect();
        vec![name(object), states.join(",").into(), age(object, now)]
    },
);

pub(super) const SLICES: Table = (
    &[
        NAME,
        Column::string("Node", "The node that has the devices, when only one does."),
        Column::string("Driver", "The driver of the devices."),
        Column::string("Pool", "The pool that the slice is part of."),
        AGE,
    ],
    |object, now| {
        vec![
            name(object),
            text(object, "/spec/nodeName").into(),
            text(object, "/spec/driver").into(),
            text(object, "/spec/pool/name").into(),
            age(object, now),
        ]
    },
);

pub(super) const ADDRESSES: Table =
    (&[NAME, Column::string("ParentRef", "What the address is assigned to."), AGE], |object, now| {
        let parent = |field: &str| text(object, &format!("/spec/parentRef/{field}"));
        let resource = match parent("group") {
            "" => parent("resource").to_lowercase(),
            group => format!("{}.{group}", parent("resource")).to_lowercase(),
        };
        let shown = format!("{resource}/{}/{}", parent("namespace"), parent("name"));
        vec![name(object), shown.into(), age(object, now)]
    });

pub(super) const COMPONENTS: Table = (
    &[
        NAME,
        Column::string("Status", "Status of the component conditions"),
        Column::string("Message", "Message of the component conditions"),
        Column::string("Error", "Error of the component conditions"),
    ],
    |object, _| {
        let healthy = super::cell::list(object, "/conditions").iter().find(|one| one["type"] == "Healthy");
        let shown = |field: &str| healthy.map_or("", |condition| text(condition, field));
        let status = match shown("/status") {
            "True" => "Healthy",
            "False" => "Unhealthy",
            _ => "Unknown",
        };
        vec![name(object), status.into(), shown("/message").into(), shown("/error").into()]
    },
);
