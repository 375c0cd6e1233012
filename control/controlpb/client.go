// SPDX-License-Identifier: Apache-2.0

package controlpb

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"weft/control"
	"weft/discovery"
	"weft/discovery/wire"
	"weft/lb"
	"weft/overlay"
)

// perMaster bounds how long one master may take to answer before the next is asked, seconds. A master
// itself gives up on the others after 5.
const perMaster = 8 * time.Second

var _ control.Service = (*Client)(nil)

// Client is a control.Service at one or more masters.
type Client struct {
	fabric FabricClient
	close  func() error
}

// NewClient asks over a connection that the caller closes.
func NewClient(conn grpc.ClientConnInterface) *Client {
	return &Client{fabric: NewFabricClient(conn), close: func() error { return nil }}
}

// Dial makes a client of the masters at addrs (HOST:PORT); each request goes to the first that
// answers. It connects on first use. The secret may be empty.
func Dial(addrs []string, secret string) (*Client, error) {
	if len(addrs) == 0 {
		return nil, fmt.Errorf("%w: no master's address is given", control.ErrInvalid)
	}
	creds, err := wire.Credentials([]byte(secret))
	if err != nil {
		return nil, err
	}
	var m masters
	for _, addr := range addrs {
		conn, err := grpc.NewClient("passthrough:///"+addr, grpc.WithTransportCredentials(creds))
		if err != nil {
			return nil, errors.Join(fmt.Errorf("master %s: %w", addr, err), m.close())
		}
		m = append(m, master{addr, conn})
	}
	return &Client{fabric: NewFabricClient(m), close: m.close}, nil
}

// Close closes what Dial made.
func (c *Client) Close() error { return c.close() }

type master struct {
	addr string
	conn *grpc.ClientConn
}

// masters are asked one after the other, until one answers anything but that it can't.
type masters []master

func (m masters) close() error {
	var errs []error
	for _, one := range m {
		errs = append(errs, one.conn.Close())
	}
	return errors.Join(errs...)
}

// Invoke implements grpc.ClientConnInterface. Requests may be repeated: what one master may have done
// before it fell silent is no error for the next.
func (m masters) Invoke(ctx context.Context, method string, args, reply any, opts ...grpc.CallOption) error {
	var failed []string
	for _, one := range m {
		err := one.invoke(ctx, method, args, reply, opts...)
		switch status.Code(err) {
		case codes.Unavailable, codes.DeadlineExceeded:
			failed = append(failed, fmt.Sprintf("%s: %s", one.addr, why(err)))
		default:
			return err
		}
		if ctx.Err() != nil {
			break
		}
	}
	return status.Errorf(codes.Unavailable, "no master answers (%s)", strings.Join(failed, "; "))
}

// why says in words what a master with a secret does to those who have none.
func why(err error) string {
	text, _ := wire.Unreached(status.Convert(err).Message())
	if strings.Contains(text, "server preface") {
		text += "; a cluster with a secret answers those who have it: --secret-file FILE"
	}
	return text
}

func (m master) invoke(ctx context.Context, method string, args, reply any, opts ...grpc.CallOption) error {
	ctx, cancel := context.WithTimeout(ctx, perMaster)
	defer cancel()
	return m.conn.Invoke(ctx, method, args, reply, opts...)
}

// NewStream implements grpc.ClientConnInterface; the service has no streams.
func (m masters) NewStream(context.Context, *grpc.StreamDesc, string, ...grpc.CallOption) (grpc.ClientStream, error) {
	return nil, status.Error(codes.Unimplemented, "no streams")
}

// AddNetwork implements control.Service.
func (c *Client) AddNetwork(ctx context.Context, n overlay.Network) (overlay.Network, error) {
	m, err := c.fabric.AddNetwork(ctx, networkOut(control.Network{Network: n}))
	if err != nil {
		return overlay.Network{}, failures.Error(err)
	}
	made, err := networkIn(m)
	return made.Network, err
}

// SetNetwork implements control.Service.
func (c *Client) SetNetwork(ctx context.Context, n overlay.Network) (overlay.Network, error) {
	m, err := c.fabric.SetNetwork(ctx, networkOut(control.Network{Network: n}))
	if err != nil {
		return overlay.Network{}, failures.Error(err)
	}
	made, err := networkIn(m)
	return made.Network, err
}

// RemoveNetwork implements control.Service.
func (c *Client) RemoveNetwork(ctx context.Context, name string) error {
	_, err := c.fabric.RemoveNetwork(ctx, &NetworkName{Name: name})
	return failures.Error(err)
}

// Networks implements control.Service.
func (c *Client) Networks(ctx context.Context, name string) ([]control.Network, error) {
	m, err := c.fabric.ListNetworks(ctx, &NetworkName{Name: name})
	if err != nil {
		return nil, failures.Error(err)
	}
	return eachErr(m.GetNetworks(), networkIn)
}

// AddGroup implements control.Service.
func (c *Client) AddGroup(ctx context.Context, g overlay.Group) error {
	_, err := c.fabric.AddGroup(ctx, &Group{Network: g.Network, Name: g.Name})
	return failures.Error(err)
}

// RemoveGroup implements control.Service.
func (c *Client) RemoveGroup(ctx context.Context, g overlay.Group) error {
	_, err := c.fabric.RemoveGroup(ctx, &Group{Network: g.Network, Name: g.Name})
	return failures.Error(err)
}

// Groups implements control.Service.
func (c *Client) Groups(ctx context.Context, network string) ([]control.Group, error) {
	m, err := c.fabric.ListGroups(ctx, &NetworkName{Name: network})
	if err != nil {
		return nil, failures.Error(err)
	}
	return eachErr(m.GetGroups(), groupIn)
}

// AddRule implements control.Service.
func (c *Client) AddRule(ctx context.Context, r overlay.Rule) (overlay.Rule, error) {
	m, err := c.fabric.AddRule(ctx, ruleOut(r))
	if err != nil {
		return overlay.Rule{}, failures.Error(err)
	}
	return ruleIn(m)
}

// RemoveRule implements control.Service.
func (c *Client) RemoveRule(ctx context.Context, network string, id overlay.RuleID) error {
	_, err := c.fabric.RemoveRule(ctx, &RuleName{Network: network, Id: uint32(id)})
	return failures.Error(err)
}

// Rules implements control.Service.
func (c *Client) Rules(ctx context.Context, network string) ([]overlay.Rule, error) {
	m, err := c.fabric.ListRules(ctx, &NetworkName{Name: network})
	if err != nil {
		return nil, failures.Error(err)
	}
	return eachErr(m.GetRules(), ruleIn)
}

// Nodes implements control.Service.
func (c *Client) Nodes(ctx context.Context) ([]control.Node, error) {
	m, err := c.fabric.ListNodes(ctx, &Empty{})
	if err != nil {
		return nil, failures.Error(err)
	}
	return eachErr(m.GetNodes(), nodeIn)
}

// AddPlainNode implements control.Service.
func (c *Client) AddPlainNode(ctx context.Context, n overlay.PlainNode) (overlay.PlainNode, error) {
	m, err := c.fabric.AddPlainNode(ctx, plainOut(n))
	if err != nil {
		return overlay.PlainNode{}, failures.Error(err)
	}
	return plainIn(m)
}

// RemoveNode implements control.Service.
func (c *Client) RemoveNode(ctx context.Context, id discovery.NodeID, force bool) error {
	_, err := c.fabric.RemoveNode(ctx, &NodeName{Id: string(id), Force: force})
	return failures.Error(err)
}

// Publish implements control.Service.
func (c *Client) Publish(ctx context.Context, p lb.Publication) error {
	_, err := c.fabric.Publish(ctx, publicationOut(p))
	return failures.Error(err)
}

// Unpublish implements control.Service.
func (c *Client) Unpublish(ctx context.Context, name string) error {
	_, err := c.fabric.Unpublish(ctx, &PublicationName{Name: name})
	return failures.Error(err)
}

// Publications implements control.Service.
func (c *Client) Publications(ctx context.Context, network string) ([]lb.Publication, error) {
	m, err := c.fabric.ListPublications(ctx, &NetworkName{Name: network})
	if err != nil {
		return nil, failures.Error(err)
	}
	return eachErr(m.GetPublications(), publicationIn)
}

// Pins implements control.Service.
func (c *Client) Pins(ctx context.Context) ([]lb.Pin, error) {
	pins := []lb.Pin{}
	for after := ""; ; {
		m, err := c.fabric.ListPins(ctx, &PinsRequest{After: after})
		if err != nil {
			return nil, failures.Error(err)
		}
		more, err := eachErr(m.GetPins(), pinIn)
		if err != nil {
			return nil, err
		}
		pins = append(pins, more...)
		if after = m.GetNext(); after == "" {
			return pins, nil
		}
	}
}

// Status implements control.Service.
func (c *Client) Status(ctx context.Context) (control.Status, error) {
	m, err := c.fabric.GetStatus(ctx, &Empty{})
	if err != nil {
		return control.Status{}, failures.Error(err)
	}
	return statusIn(m)
}
