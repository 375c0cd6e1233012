// SPDX-License-Identifier: Apache-2.0

// Package ipfix sends events to a flow collector, as IPFIX (RFC 7011). It knows how an event is a flow
// record; which events, and how long, is its caller's. Names of tasks are not sent: IPFIX has no element
// for them without an enterprise number of our own.
package ipfix

import (
	"fmt"
	"log/slog"
	"net/netip"

	"github.com/vmware/go-ipfix/pkg/entities"
	"github.com/vmware/go-ipfix/pkg/exporter"
	"github.com/vmware/go-ipfix/pkg/registry"
	"k8s.io/klog/v2"

	"weft/overlay"
)

const (
	domain  = 1   // observation domain: the exporter's only one
	refresh = 60  // seconds after which templates are sent again, as UDP asks for (RFC 7011 8.4)
	largest = 512 // bytes of a message: one record, and room for the headers
	iana    = 0   // enterprise

	// Values of forwardingStatus (RFC 7270 4.12).
	forwarded = 64
	dropped   = 128
)

// common are the elements that both families have.
var common = []string{
	"sourceTransportPort", "destinationTransportPort", "protocolIdentifier", "octetDeltaCount", "packetDeltaCount",
	"flowStartMilliseconds", "flowEndMilliseconds", "forwardingStatus",
}

// Exporter is a connection to a collector.
type Exporter struct {
	process   *exporter.ExportingProcess
	templates map[bool]template // by whether it is IPv4
}

type template struct {
	id       uint16
	elements []*entities.InfoElement
}

// Open sends the templates to a collector, by UDP.
func Open(collector netip.AddrPort) (*Exporter, error) {
	registry.LoadRegistry()
	klog.SetSlogLogger(slog.New(slog.DiscardHandler)) // the library tells what it does on standard error
	process, err := exporter.InitExportingProcess(exporter.ExporterInput{
		CollectorAddress: collector.String(), CollectorProtocol: "udp", ObservationDomainID: domain, TempRefTimeout: refresh,
		IsIPv6: collector.Addr().Is6(), MaxMsgSize: largest,
	})
	if err != nil {
		return nil, fmt.Errorf("reach collector %s: %w", collector, err)
	}
	x := &Exporter{process: process, templates: make(map[bool]template)}
	for is4, family := range map[bool]string{true: "IPv4", false: "IPv6"} {
		if err := x.declare(is4, family); err != nil {
			process.CloseConnToCollector()
			return nil, fmt.Errorf("send template to %s: %w", collector, err)
		}
	}
	return x, nil
}

func (x *Exporter) declare(is4 bool, family string) error {
	t := template{id: x.process.NewTemplateID()}
	var values []entities.InfoElementWithValue
	for _, name := range append([]string{"source" + family + "Address", "destination" + family + "Address"}, common...) {
		e, err := registry.GetInfoElement(name, iana)
		if err != nil {
			return err
		}
		v, err := entities.DecodeAndCreateInfoElementWithValue(e, nil)
		if err != nil {
			return err
		}
		t.elements, values = append(t.elements, e), append(values, v)
	}
	x.templates[is4] = t
	return x.send(entities.Template, t.id, values)
}

// Send sends an event as a flow: of one packet, or of as many as it stands for.
func (x *Exporter) Send(e overlay.Event) error {
	t := x.templates[e.Source.Addr().Is4()]
	packets := uint64(max(1, e.Packets))
	status, at := uint8(forwarded), uint64(e.Time.UnixMilli())
	if e.Drop {
		status = dropped
	}
	of := t.elements
	return x.send(entities.Data, t.id, []entities.InfoElementWithValue{
		entities.NewIPAddressInfoElement(of[0], e.Source.Addr().AsSlice()),
		entities.NewIPAddressInfoElement(of[1], e.Destination.Addr().AsSlice()),
		entities.NewUnsigned16InfoElement(of[2], e.Source.Port()),
		entities.NewUnsigned16InfoElement(of[3], e.Destination.Port()),
		entities.NewUnsigned8InfoElement(of[4], protocol(e.Protocol)),
		entities.NewUnsigned64InfoElement(of[5], packets*uint64(e.Length)),
		entities.NewUnsigned64InfoElement(of[6], packets),
		entities.NewDateTimeMillisecondsInfoElement(of[7], at),
		entities.NewDateTimeMillisecondsInfoElement(of[8], at),
		entities.NewUnsigned8InfoElement(of[9], status),
	})
}

func (x *Exporter) send(kind entities.ContentType, id uint16, values []entities.InfoElementWithValue) error {
	set := entities.NewSet(false)
	if err := set.PrepareSet(kind, id); err != nil {
		return err
	}
	if err := set.AddRecordV2(values, id); err != nil {
		return err
	}
	_, err := x.process.SendSet(set)
	return err
}

// Close ends the connection.
func (x *Exporter) Close() { x.process.CloseConnToCollector() }

// protocol is the number of what an Event calls by name.
func protocol(name string) uint8 {
	numbers := map[string]uint8{"icmp": 1, "tcp": 6, "udp": 17, "icmpv6": 58}
	if n, known := numbers[name]; known {
		return n
	}
	var n uint8
	if _, err := fmt.Sscan(name, &n); err != nil {
		return 0
	}
	return n
}
