// SPDX-License-Identifier: Apache-2.0

package resident

import (
	"errors"
	"fmt"

	wire "github.com/miekg/dns"

	"weft/discovery/dns/answer"
)

// prepared is an answer as the kernel takes it.
type prepared struct {
	answer.Answer
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
func (l *Answers) prepare(k Key, network string) (prepared, error) {
	apex, own := l.zone.Apex(k.Name)
	if !own {
		return prepared{}, errForeign
	}
	p := prepared{Answer: answer.Compose(l.zone, network, apex, k.Name, k.Type)}
	if p.Rcode == wire.RcodeServerFailure {
		return prepared{}, errUnready
	}
	if p.Beyond != "" || len(p.Chain) > 0 && len(p.Records) > 1 && !l.fixed {
		return prepared{}, errAlias
	}
	p.Records = append(p.Chain, p.Records...)
	var err error
	if p.qname, err = wireName(k.Name); err != nil {
		return prepared{}, err
	}
	if err := p.render(k); err != nil {
		return prepared{}, err
	}
	if l.fixed {
		p.rotate = 0
	}
	if len(p.data) > maxUDP {
		return prepared{}, errLong
	}
	return p, nil
}

// render packs the records as they follow the question, and sets the size of an answer record when
// rotation makes sense: addresses, more than one.
func (p *prepared) render(k Key) error {
	m := &wire.Msg{
		Question: []wire.Question{{Name: k.Name, Qtype: k.Type, Qclass: wire.ClassINET}},
		Answer:   p.Records, Ns: p.Authority, Extra: p.Extra, Compress: true,
	}
	packed, err := m.Pack()
	if err != nil {
		return fmt.Errorf("pack %s: %w", k.Name, err)
	}
	const header, typeAndClass = 12, 4
	p.data = packed[header+len(p.qname)+typeAndClass:]
	alike := len(p.Records) > 1 && len(p.Chain) == 0 && len(p.Authority)+len(p.Extra) == 0
	if alike && (k.Type == wire.TypeA || k.Type == wire.TypeAAAA) {
		p.rotate = uint8(len(p.data) / len(p.Records)) // 16 or 28: the name is a pointer
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
