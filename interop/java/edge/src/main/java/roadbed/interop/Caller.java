package roadbed.interop;

import java.io.BufferedReader;
import java.io.ByteArrayInputStream;
import java.io.IOException;
import java.io.InputStreamReader;
import java.net.URI;
import java.net.http.HttpClient;
import java.net.http.HttpRequest;
import java.net.http.HttpResponse;
import java.nio.charset.StandardCharsets;
import java.security.SecureRandom;
import java.security.cert.X509Certificate;
import java.time.Duration;
import java.util.Base64;
import java.util.Map;
import java.util.TreeMap;
import java.util.stream.Collectors;
import javax.net.ssl.SSLContext;
import javax.net.ssl.TrustManager;
import javax.net.ssl.X509ExtendedTrustManager;

/**
 * The JDK's HTTP client: Caller 1|2 BASE reads calls from standard input, a line each of method, target, body's form (none, length
 * or chunked) and body in base64, and prints what came back as JSON, a line each.
 */
public final class Caller {
  public static void main(String[] args) throws Exception {
    HttpClient.Version version = args[0].equals("2") ? HttpClient.Version.HTTP_2 : HttpClient.Version.HTTP_1_1;
    HttpClient client =
        HttpClient.newBuilder().version(version).sslContext(trusting()).followRedirects(HttpClient.Redirect.NORMAL).connectTimeout(Duration.ofSeconds(5)).build();
    BufferedReader in = new BufferedReader(new InputStreamReader(System.in, StandardCharsets.UTF_8));
    for (String line; (line = in.readLine()) != null; ) {
      String[] call = line.split("\t", -1);
      byte[] body = Base64.getDecoder().decode(call[3]);
      HttpRequest.Builder req = HttpRequest.newBuilder(URI.create(args[1] + call[1])).timeout(Duration.ofSeconds(20));
      HttpRequest.BodyPublisher sent =
          switch (call[2]) {
            case "none" -> HttpRequest.BodyPublishers.noBody();
            case "length" -> HttpRequest.BodyPublishers.ofByteArray(body);
            default -> HttpRequest.BodyPublishers.ofInputStream(() -> new ByteArrayInputStream(body));
          };
      if (!call[2].equals("none")) {
        req.header("Content-Type", "application/octet-stream");
      }
      try {
        HttpResponse<byte[]> resp = client.send(req.method(call[0], sent).build(), HttpResponse.BodyHandlers.ofByteArray());
        Map<String, String> headers = new TreeMap<>();
        resp.headers().map().forEach((k, v) -> headers.put(k.toLowerCase(), String.join(", ", v)));
        headers.put("(version)", resp.version().toString());
        say(resp.statusCode(), headers, resp.body());
      } catch (IOException e) {
        say(0, Map.of(), e.toString().getBytes(StandardCharsets.UTF_8));
      }
    }
  }

  static void say(int status, Map<String, String> headers, byte[] body) {
    String h = headers.entrySet().stream().map(e -> quote(e.getKey()) + ":" + quote(e.getValue())).collect(Collectors.joining(","));
    System.out.println("{\"Status\":" + status + ",\"Headers\":{" + h + "},\"Body\":\"" + Base64.getEncoder().encodeToString(body) + "\"}");
  }

  private static String quote(String s) {
    return '"' + s.replace("\\", "\\\\").replace("\"", "\\\"") + '"';
  }

  /** The tests' certificates are their own. */
  static SSLContext trusting() throws Exception {
    System.setProperty("jdk.internal.httpclient.disableHostnameVerification", "true");
    SSLContext c = SSLContext.getInstance("TLS");
    c.init(null, new TrustManager[] {new Trusting()}, new SecureRandom());
    return c;
  }

  static final class Trusting extends X509ExtendedTrustManager {
    @Override
    public void checkClientTrusted(X509Certificate[] chain, String type) {}

    @Override
    public void checkServerTrusted(X509Certificate[] chain, String type) {}

    @Override
    public void checkClientTrusted(X509Certificate[] chain, String type, java.net.Socket s) {}

    @Override
    public void checkServerTrusted(X509Certificate[] chain, String type, java.net.Socket s) {}

    @Override
    public void checkClientTrusted(X509Certificate[] chain, String type, javax.net.ssl.SSLEngine e) {}

    @Override
    public void checkServerTrusted(X509Certificate[] chain, String type, javax.net.ssl.SSLEngine e) {}

    @Override
    public X509Certificate[] getAcceptedIssuers() {
      return new X509Certificate[0];
    }
  }
}
