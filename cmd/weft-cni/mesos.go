// SPDX-License-Identifier: Apache-2.0

package main

// networkInfo is what of Mesos' NetworkInfo concerns a network.
type networkInfo struct {
	Groups      []string `json:"groups"`
	IPAddresses []struct {
		IPAddress string `json:"ip_address"` // empty: any of a family
	} `json:"ip_addresses"`
	Labels struct {
		Labels []struct {
			Key   string `json:"key"`
			Value string `json:"value"`
		} `json:"labels"`
	} `json:"labels"`
	PortMappings []struct {
		HostPort      int    `json:"host_port"`
		ContainerPort int    `json:"container_port"`
		Protocol      string `json:"protocol"`
	} `json:"port_mappings"`
}

// groups are those of the field, and of a label "groups": Marathon from 1.5 on passes labels of a network alone.
func (n networkInfo) groups() []string {
	groups := n.Groups
	for _, l := range n.Labels.Labels {
		if l.Key == "groups" {
			groups = append(groups, list(l.Value)...)
		}
	}
	return groups
}

// fixed are the addresses that the task shall have.
func (n networkInfo) fixed() (addrs []string) {
	for _, a := range n.IPAddresses {
		if a.IPAddress != "" {
			addrs = append(addrs, a.IPAddress)
		}
	}
	return addrs
}
