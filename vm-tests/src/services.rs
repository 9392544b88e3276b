//! What the outside offers a guest, and asks of it: names, pages and long streams. Servers run on threads of the
//! test; their sockets are opened inside a namespace and stay there.

mod dns;
mod http;
mod stream;

pub use dns::{DnsServer, NAME};
pub use http::{HttpServer, PAGE, get, get_within};
pub use stream::{Received, Sink, md5};
