package listen

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"slices"
	"strings"

	"github.com/caddyserver/certmagic"
	"go.uber.org/zap"
)

const acmeProtocol = "acme-tls/1" // RFC 8737 §6.2

// ACMEConfig says from whom certificates are got by the protocol of RFC 8555, and for which names.
type ACMEConfig struct {
	Hosts     []string // names, never wildcards
	Email     string   // told when something is wrong with a certificate; may be empty
	Directory string   // URL of the authority; empty: Let's Encrypt
	Dir       string   // where keys and certificates are kept
	Log       *slog.Logger
}

// ACME gets certificates and renews them.
type ACME struct {
	hosts  []string
	magic  *certmagic.Config
	issuer *certmagic.ACMEIssuer
	cache  *certmagic.Cache
}

// NewACME returns what gets the certificates once [ACME.Run] runs.
func NewACME(c ACMEConfig) (*ACME, error) {
	if len(c.Hosts) == 0 || c.Dir == "" {
		return nil, errors.New("ACME needs names to get certificates for, and a directory to keep them in")
	}
	a := &ACME{}
	for _, h := range c.Hosts {
		if h = strings.ToLower(strings.TrimSpace(h)); h == "" || strings.ContainsAny(h, "*/: ") {
			return nil, fmt.Errorf("ACME: %q is no name that a certificate can be got for; a wildcard needs one of your own in the directory of certificates", h)
		}
		a.hosts = append(a.hosts, h)
	}
	a.cache = certmagic.NewCache(certmagic.CacheOptions{
		GetConfigForCert: func(certmagic.Certificate) (*certmagic.Config, error) { return a.magic, nil },
		Logger:           zap.NewNop(),
	})
	log := c.Log
	if log == nil {
		log = slog.Default()
	}
	a.magic = certmagic.New(a.cache, certmagic.Config{
		Storage: &certmagic.FileStorage{Path: c.Dir},
		Logger:  zap.NewNop(), // what matters comes as an event
		OnEvent: func(_ context.Context, event string, data map[string]any) error {
			switch event {
			case "cert_obtained":
				log.Info("certificate obtained", "name", data["identifier"], "renewal", data["renewal"])
			case "cert_failed":
				log.Warn("no certificate could be got; it is tried again", "name", data["identifier"], "err", data["error"])
			}
			return nil
		},
	})
	a.issuer = certmagic.NewACMEIssuer(a.magic, certmagic.ACMEIssuer{
		CA: c.Directory, Email: c.Email, Agreed: true, Logger: zap.NewNop(),
		DisableHTTPChallenge: true, // over TLS the listener answers by itself
	})
	a.magic.Issuers = []certmagic.Issuer{a.issuer}
	return a, nil
}

// Run gets certificates for all names and renews them in time, until ctx ends. at is where the listener answers the authority's
// challenge; port 443 of each name, to which the authority comes, must lead there.
func (a *ACME) Run(ctx context.Context, at net.Addr) error {
	defer a.cache.Stop()
	a.answerAt(at)
	if err := a.magic.ManageAsync(ctx, a.hosts); err != nil {
		return fmt.Errorf("ACME: %w", err)
	}
	<-ctx.Done()
	return nil
}

// answerAt has certmagic find that somebody listens for the challenge. Else it would do so itself, at port 443, or fail because it must not.
func (a *ACME) answerAt(at net.Addr) {
	if at, ok := at.(*net.TCPAddr); ok {
		if a.issuer.AltTLSALPNPort = at.Port; !at.IP.IsUnspecified() {
			a.issuer.ListenHost = at.IP.String()
		}
	}
}

// certificate returns the one for a hello, or answers the authority's challenge; nil if the name is none of ours.
func (a *ACME) certificate(hello *tls.ClientHelloInfo) (*tls.Certificate, error) {
	if !slices.Contains(a.hosts, strings.ToLower(hello.ServerName)) {
		return nil, nil
	}
	return a.magic.GetCertificate(hello)
}
