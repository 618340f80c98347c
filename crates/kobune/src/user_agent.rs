//! What kobune's own clients call themselves: the parts' names as everybody knows them, since managed fields, audit
//! records and rules of other tools go by them.

use http::{HeaderValue, Request, header::USER_AGENT};
use kube::client::Body;

use crate::settings::VERSION;

/// The user agent of the part that acts as this user: `kubelet` for a node, else the user's name without `system:`.
pub fn of_user(user: &str) -> HeaderValue {
    let part = match user.strip_prefix("system:").unwrap_or(user) {
        node if node.starts_with("node:") => "kubelet",
        part => part,
    };
    of_part(part)
}

/// The user agent of a part, such as `kube-scheduler/v1.36.0+kobune.0.1.0`.
pub fn of_part(part: &str) -> HeaderValue {
    HeaderValue::try_from(format!("{part}/{VERSION}")).unwrap_or(HeaderValue::from_static("kobune"))
}

/// Gives requests that have none a user agent.
pub fn tag(agent: HeaderValue) -> impl FnMut(Request<Body>) -> Request<Body> + Clone + Send + 'static {
    move |mut request| {
        request.headers_mut().entry(USER_AGENT).or_insert_with(|| agent.clone());
        request
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_have_their_names() {
        let name = |user: &str| {
            let agent = of_user(user);
            agent.to_str().expect("a text").split('/').next().map(str::to_owned).expect("a name")
        };
        assert_eq!(name("system:node:a/b\n"), "kubelet");
        assert_eq!(name("system:kube-controller-manager"), "kube-controller-manager");
        assert_eq!(name("me"), "me");
        let mut tag = tag(of_part("kubelet"));
        let own = Request::builder().header(USER_AGENT, "probe").body(Body::empty()).expect("a request");
        assert_eq!(tag(own).headers()[USER_AGENT], "probe");
        let none = tag(Request::new(Body::empty()));
        assert!(none.headers()[USER_AGENT].to_str().is_ok_and(|agent| agent.starts_with("kubelet/v1.36")));
    }
}
