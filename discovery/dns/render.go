// SPDX-License-Identifier: Apache-2.0

package dns

import (
	"errors"
	"fmt"

	wire "github.com/miekg/dns"
)

// prepared is an answer as the kernel takes it.
type prepared struct {
	answer
	qname, data []byte
	rotate      uint8
}

var (
	errForeign = errors.New("not a name of ours")
	errUnready = errors.New("not known yet")
	errLong    = errors.New("longer than an answer over UDP")
	errAlias   = errors.New("its records are turned behind a CNAME, or foreign")
)

// prepare composes an answer from the zone that is served and renders it.
func (l *learner) prepare(k residentKey, network string) (prepared, error) {
	apex, own := l.zone.Apex(k.name)
	if !own {
		return prepared{}, errForeign
	}
	p := prepared{answer: compose(l.zone, network, apex, k.name, k.qtype)}
	if p.rcode == wire.RcodeServerFailure {
		return prepared{}, errUnready
	}
	if p.beyond != "" || len(p.chain) > 0 && len(p.records) > 1 {
		return prepared{}, errAlias
	}
	p.records = append(p.chain, p.records...)
	var err error
	if p.qname, err = wireName(k.name); err != nil {
		return prepared{}, err
	}
	if err := p.render(k); err != nil {
		return prepared{}, err
	}
	if len(p.data) > maxUDP {
		return prepared{}, errLong
	}
	return p, nil
}

// render packs the records as they follow the question, and sets the size of an answer record when
// rotation makes sense: addresses, more than one.
func (p *prepared) render(k residentKey) error {
	m := &wire.Msg{
		Question: []wire.Question{{Name: k.name, Qtype: k.qtype, Qclass: wire.ClassINET}},
		Answer:   p.records, Ns: p.authority, Extra: p.extra, Compress: true,
	}
	packed, err := m.Pack()
	if err != nil {
		return fmt.Errorf("pack %s: %w", k.name, err)
	}
	const header, typeAndClass = 12, 4
	p.data = packed[header+len(p.qname)+typeAndClass:]
	alike := len(p.records) > 1 && len(p.chain) == 0 && len(p.authority)+len(p.extra) == 0
	if alike && (k.qtype == wire.TypeA || k.qtype == wire.TypeAAAA) {
		p.rotate = uint8(len(p.data) / len(p.records)) // 16 or 28: the name is a pointer
	}
	return nil
}

func wireName(name string) ([]byte, error) {
	var buf [256]byte
	n, err := wire.PackDomainName(name, buf[:], 0, nil, false)
	if err != nil {
		return nil, fmt.Errorf("pack %s: %w", name, err)
	}
	return buf[:n], nil
}
