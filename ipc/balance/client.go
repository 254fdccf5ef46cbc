package balance

import "time"

// Client is what Ribbon's properties, and ours, say of the connections and attempts of a client. A balancer has no use
// for it; who makes the calls heeds it.
type Client struct {
	PerHost        int           // connections to one endpoint; 0: not said; -1: no limit
	ConnectTimeout time.Duration // 0: not said
	ReadTimeout    time.Duration // until an attempt's headers come; 0: not said
	IdleTimeout    time.Duration // after which an unused connection is closed; 0: not said
	SameServer     int           // MaxAutoRetries; -1: not said
	NextServer     int           // MaxAutoRetriesNextServer; -1: not said
	RetryAll       bool          // OkToRetryOnAllOperations
}

// Retries returns how many attempts follow the first, given how many do if nothing is said.
func (c *Client) Retries(usual int) int {
	if c.SameServer < 0 && c.NextServer < 0 {
		return usual
	}
	next := 1 // Ribbon's default
	if c.NextServer >= 0 {
		next = c.NextServer
	}
	return (max(c.SameServer, 0)+1)*(next+1) - 1
}

const maxTries = 9 // in a row, of either kind

func clientDefaults() Client { return Client{SameServer: -1, NextServer: -1} }

// clientKeys are the properties of a Client.
func clientKeys() []key {
	ms := time.Millisecond
	both := func(mine, ribbons string) []string { return append(own(mine), ribbon(ribbons)...) }
	return []key{
		field(both("maxConnectionsPerHost", "MaxConnectionsPerHost"), whole(-1, 1e6), func(s *Settings) *int { return &s.PerHost }),
		field(both("connectTimeoutInMilliseconds", "ConnectTimeout"), times(ms, 1), func(s *Settings) *time.Duration { return &s.ConnectTimeout }),
		field(both("readTimeoutInMilliseconds", "ReadTimeout"), times(ms, 1), func(s *Settings) *time.Duration { return &s.ReadTimeout }),
		field(both("idleTimeoutInMilliseconds", "ConnIdleEvictTimeMilliSeconds"), times(ms, 1), func(s *Settings) *time.Duration { return &s.IdleTimeout }),
		field(ribbon("MaxAutoRetries"), whole(0, maxTries), func(s *Settings) *int { return &s.SameServer }),
		field(ribbon("MaxAutoRetriesNextServer"), whole(0, maxTries), func(s *Settings) *int { return &s.NextServer }),
		field(ribbon("OkToRetryOnAllOperations"), truth, func(s *Settings) *bool { return &s.RetryAll }),
	}
}
