package roadbed.interop;

import org.eclipse.jetty.server.Server;
import org.eclipse.jetty.server.ServerConnector;
import org.eclipse.jetty.webapp.WebAppContext;

/** Serves Hystrix's dashboard, the web application in the folder that is its argument, at a free port. */
public class Dashboard {
    public static void main(String[] args) throws Exception {
        Server server = new Server();
        ServerConnector port = new ServerConnector(server);
        port.setHost("127.0.0.1");
        server.addConnector(port);
        server.setHandler(new WebAppContext(args[0], "/"));
        server.start();
        System.out.println("{\"What\":\"ready\",\"Detail\":[\"http://127.0.0.1:" + port.getLocalPort() + "\"]}");
        while (System.in.read() >= 0) { } // ends with whoever started it
        server.stop();
        System.exit(0);
    }
}
