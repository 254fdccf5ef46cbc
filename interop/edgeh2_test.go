package interop

import (
	"context"
	"crypto/tls"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/summerwind/h2spec"
	"github.com/summerwind/h2spec/config"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	cases "google.golang.org/grpc/interop"
	pb "google.golang.org/grpc/interop/grpc_testing"
)

var (
	specSuites   = regexp.MustCompile(`<testsuite name="[^"]*" package="[^"]*" id="[^"]*" tests="(\d+)" skipped="(\d+)" failures="(\d+)" errors="(\d+)"`)
	specFailures = regexp.MustCompile(`(?s)<testcase package="([^"]*)" classname="([^"]*)" time="[^"]*">\s*<(?:failure|error)[^>]*>(.*?)</(?:failure|error)>`)
)

// TestH2specFindsNothing has h2spec try all that it knows of HTTP/2 and HPACK, strictly, by TLS and without.
func TestH2specFindsNothing(t *testing.T) {
	r := newRoad(t, "--edge-tls-port", "7443")
	r.leadAll("httpbin", serveBin(t))
	for name, base := range map[string]string{"h2c": r.at(7000), "h2": r.at(7443)} {
		t.Run(name, func(t *testing.T) {
			_, port, err := net.SplitHostPort(strings.TrimPrefix(base, "http://"))
			if err != nil {
				t.Fatal(err)
			}
			n, err := strconv.Atoi(port)
			if err != nil {
				t.Fatal(err)
			}
			report := filepath.Join(t.TempDir(), "report.xml")
			stdout := os.Stdout // where h2spec tells its life
			if os.Stdout, err = os.Open(os.DevNull); err != nil {
				t.Fatal(err)
			}
			_, err = h2spec.Run(&config.Config{Host: "127.0.0.1", Port: n, Path: "/get", Timeout: 20 * time.Second, MaxHeaderLen: 4000, TLS: name == "h2", Insecure: true, JUnitReport: report, Strict: true})
			os.Stdout.Close()
			os.Stdout = stdout
			if err != nil {
				t.Fatal(err)
			}
			text, err := os.ReadFile(report)
			if err != nil {
				t.Fatal(err)
			}
			passed := 0
			for _, m := range specSuites.FindAllStringSubmatch(string(text), -1) {
				tests, _ := strconv.Atoi(m[1])
				skipped, _ := strconv.Atoi(m[2])
				failed, _ := strconv.Atoi(m[3])
				errs, _ := strconv.Atoi(m[4])
				passed += tests - skipped - failed - errs
			}
			for _, m := range specFailures.FindAllStringSubmatch(string(text), -1) {
				t.Errorf("%s, %s: %s", m[1], m[2], strings.TrimSpace(m[3]))
			}
			if passed < 146 {
				t.Errorf("%d cases passed; h2spec has 146", passed)
			}
			t.Logf("%d cases passed", passed)
		})
	}
}

// TestGRPCsOwnCasesPassThroughTheEdge runs the interoperability cases that every gRPC implementation is tried by, with
// grpc-go's own server and client on both sides of the edge. A case that fails ends the process and says why.
func TestGRPCsOwnCasesPassThroughTheEdge(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := grpc.NewServer()
	pb.RegisterTestServiceServer(s, cases.NewTestServer())
	go s.Serve(l) //nolint:errcheck // it ends with Stop; what fails before fails the calls
	defer s.Stop()
	r := newRoad(t, "--edge-tls-port", "7443")
	r.once("testservice", l.Addr().String())
	r.set("json", "edge.routes", `[{"id":"all","match":{"path":{"prefix":"/"}},"backends":[{"vip":"testservice"}],"timeouts":{"request":"30s"}}]`)
	for name, how := range map[string]struct {
		port int
		by   credentials.TransportCredentials
	}{"h2c": {7000, insecure.NewCredentials()}, "h2": {7443, credentials.NewTLS(&tls.Config{InsecureSkipVerify: true})}} {
		t.Run(name, func(t *testing.T) {
			conn, err := grpc.NewClient(strings.TrimPrefix(r.at(how.port), "http://"), grpc.WithTransportCredentials(how.by))
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close()
			client := pb.NewTestServiceClient(conn)
			ctx, cancel := context.WithTimeout(t.Context(), 2*patience)
			defer cancel()
			eventually(t, "a first call passes", func() []string {
				_, err := client.EmptyCall(ctx, &pb.Empty{})
				return []string{fmt.Sprint(err)}
			}, "<nil>")
			for range 3 {
				allCases(ctx, conn)
			}
		})
	}
}
