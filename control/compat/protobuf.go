// SPDX-License-Identifier: Apache-2.0

package compat

import (
	"encoding/binary"
	"slices"
)

// message is a message of protobuf as it grows (protobuf.dev, Encoding). Numbers of fields are those of DC/OS' module.
type message []byte

// Wire types.
const (
	varint = 0
	sized  = 2
)

func (m *message) key(field, wire uint64) {
	*m = binary.AppendUvarint(*m, field<<3|wire)
}

// number and text leave out what is nothing, as the documents in JSON do.
func (m *message) number(field uint64, n int) {
	if n > 0 {
		m.key(field, varint)
		*m = binary.AppendUvarint(*m, uint64(n))
	}
}

func (m *message) text(field uint64, s string) {
	if s != "" {
		m.bytes(field, []byte(s))
	}
}

func (m *message) bytes(field uint64, b []byte) {
	m.key(field, sized)
	*m = append(binary.AppendUvarint(*m, uint64(len(b))), b...)
}

// protobuf is the document of an agent for who takes no JSON.
func (a Agent) protobuf() []byte {
	var m message
	m.text(1, a.IP)
	for _, o := range a.Overlays {
		m.bytes(2, o.protobuf())
	}
	if a.Attempts != nil {
		m.number(3, *a.Attempts)
	}
	return m
}

func (o Overlay) protobuf() []byte {
	var m message
	m.bytes(1, o.Info.protobuf())
	m.text(2, o.Subnet)
	var backend message
	backend.bytes(1, o.Backend.VXLAN.protobuf())
	m.bytes(5, backend)
	m.bytes(6, o.State.protobuf())
	m.text(7, o.Subnet6)
	return m
}

func (i Info) protobuf() []byte {
	var m message
	m.text(1, i.Name)
	m.text(2, i.Subnet)
	m.number(3, i.Prefix)
	m.text(4, i.Subnet6)
	m.number(5, i.Prefix6)
	return m
}

// protobuf has the VTEP's address and MAC also where they are not known yet: readers refuse a message without.
func (x VXLAN) protobuf() []byte {
	var m message
	m.number(1, int(x.VNI))
	m.text(2, x.VTEPName)
	m.bytes(3, []byte(x.VTEPIP))
	m.bytes(4, []byte(x.VTEPMAC))
	m.text(5, x.VTEPIP6)
	m.number(6, x.VTEPMTU)
	return m
}

func (s Status) protobuf() []byte {
	var m message
	m.number(1, 1+slices.Index([]string{StatusOK, StatusFailed, StatusConfiguring}, s.Status))
	m.text(2, s.Error)
	return m
}
