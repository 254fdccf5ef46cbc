package roadbed.interop;

import jakarta.servlet.http.HttpServlet;
import jakarta.servlet.http.HttpServletRequest;
import jakarta.servlet.http.HttpServletResponse;
import java.io.IOException;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.util.Base64;
import org.apache.catalina.Context;
import org.apache.catalina.startup.Tomcat;

/** Tomcat as a server that says what it understood of each request: Echo PORT. */
public final class Echo {
  public static void main(String[] args) throws Exception {
    Tomcat tomcat = new Tomcat();
    tomcat.setBaseDir(Files.createTempDirectory("roadbed-interop-tomcat").toString());
    tomcat.setHostname("127.0.0.1");
    tomcat.setPort(Integer.parseInt(args[0]));
    tomcat.getConnector().setProperty("address", "127.0.0.1");
    tomcat.getConnector().setProperty("maxHttpResponseHeaderSize", "65536");
    tomcat.getConnector().setAllowTrace(true);
    Context root = tomcat.addContext("", null);
    Tomcat.addServlet(root, "echo", new Servlet());
    root.addServletMappingDecoded("/", "echo");
    tomcat.start();
    tomcat.getServer().await();
  }

  private static final class Servlet extends HttpServlet {
    @Override
    protected void service(HttpServletRequest req, HttpServletResponse resp) throws IOException {
      byte[] body = req.getInputStream().readAllBytes();
      String target = req.getRequestURI();
      if (req.getQueryString() != null) {
        target += "?" + req.getQueryString();
      }
      String seen =
          "{\"Method\":" + quote(req.getMethod()) + ",\"Target\":" + quote(target) + ",\"Host\":" + quote(req.getHeader("Host"))
              + ",\"Body\":\"" + Base64.getEncoder().encodeToString(body) + "\"}";
      resp.setHeader("X-Echo", Base64.getEncoder().encodeToString(seen.getBytes(StandardCharsets.UTF_8)));
      byte[] ok = "ok\n".getBytes(StandardCharsets.UTF_8);
      resp.setContentLength(ok.length);
      resp.getOutputStream().write(ok);
    }

    private static String quote(String s) {
      return '"' + s.replace("\\", "\\\\").replace("\"", "\\\"") + '"';
    }
  }
}
