//! The libvirt domain XML with our NICs in it. Pure; every byte that is not ours stays. It must never know of VMIs or of
//! processes.
