use super::*;

#[test]
fn a_plain_vmi_has_one_nic() {
    let vmi = br#"{"metadata":{"name":"vm","namespace":"demo"},"spec":{"domain":{"devices":{"interfaces":[
        {"name":"default","binding":{"name":"sluice"}}]}},"networks":[{"name":"default","pod":{}}]}}"#;
    let place = Place {
        binding: "sluice".to_owned(),
        links: BTreeMap::from([("eth0".to_owned(), 1400)]),
        search: Vec::new(),
    };
    let plan = plan(vmi, &place).unwrap();
    assert_eq!(plan.nics.len(), 1);
    assert_eq!(plan.nics[0].uplink.interface, "eth0");
}
